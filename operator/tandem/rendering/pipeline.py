"""Rendering: from a request to how the workers of each role are started. One pure function, `render`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.rendering.extra import (
    extra_warnings,
    repeated_problems,
    reserved_problems,
    unknown_problems,
)
from tandem.rendering.library import Library
from tandem.rendering.mapping import MappingTable
from tandem.rendering.parameters import Given, Resolved, resolve
from tandem.rendering.templates import YamlTemplate
from tandem.rendering.values import Argument, EnvRef, RoleRendering, Value
from tandem.rendering.vocabulary import CONTEXT_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRequest:
    """One pool of workers: the parameters that the user gave for it and arguments to pass on as they are."""

    name: str
    given: Mapping[str, Given]
    extra_arguments: tuple[str, ...] = ()
    extra_path: str = ""
    derived: Mapping[str, Given] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model as the worker sees it: a directory or repository, its revision there, the name for clients."""

    path: str
    served_name: str
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that rendering depends on.

    `limits` are those that the user gave, by snake_case name. `facts` are values of `vocabulary.CONTEXT_NAMES` beside
    role, mode, backend and version. `names` are what
    templates see beside model, role, mode, backend, version, params, limits, flags and settings.
    """

    backend: str
    version: str | None
    mode: str
    rule_set: str
    roles: tuple[RoleRequest, ...]
    model: ModelFacts
    limits: Mapping[str, Given] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendering:
    """The result: the table that was used, and each role in the order of the request."""

    table: MappingTable
    roles: tuple[RoleRendering, ...]


def render(request: Request, library: Library) -> Rendering:
    """How each role's workers are started; raises `Refused` with everything that cannot be had."""
    table = library.table(request.backend, request.version)
    limits = _limits(request, table)
    _check_name(request.model.served_name, table)
    resolved: list[Resolved] = []
    problems: list[Problem] = []
    for role in request.roles:
        extra = role.extra_arguments, role.extra_path, table
        problems += reserved_problems(*extra, request.mode)
        problems += unknown_problems(*extra, request.mode)
        try:
            values = _resolve(request, role=role, table=table, limits=limits, library=library)
        except Refused as refused:
            problems += refused.problems
            continue
        problems += repeated_problems(*extra, mode=request.mode, parameters=values.parameters)
        resolved.append(values)
    if problems:
        raise Refused(dict.fromkeys(problems))
    _check_match(request, resolved, table)
    templates = library.arguments(table), library.files(table)
    of_all = {
        role.name: {item.name: item.value for item in values.parameters}
        for role, values in zip(request.roles, resolved, strict=True)
    }
    roles = (
        _role(request, role=role, values=values, of_all=of_all, table=table, limits=limits, templates=templates)
        for role, values in zip(request.roles, resolved, strict=True)
    )
    return Rendering(table, tuple(roles))


def _resolve(
    request: Request, *, role: RoleRequest, table: MappingTable, limits: Mapping[str, Value | None], library: Library
) -> Resolved:
    context: dict[str, object] = dict.fromkeys(CONTEXT_NAMES)
    context |= request.facts
    context |= {"role": role.name, "mode": request.mode, "backend": table.backend, "version": table.version}
    context["concurrency"] = limits.get("concurrency")
    return resolve(
        role=role.name,
        given=role.given,
        table=table,
        rules=library.rule_file(request.rule_set, table.backend),
        context=context,
        derived=role.derived,
    )


def _limits(request: Request, table: MappingTable) -> dict[str, Value | None]:
    refused = [
        Problem(given.path, shorten(given.value), table.limits_refused[name].reason, table.limits_refused[name].fix)
        for name, given in request.limits.items()
        if name not in table.limits
    ]
    if refused:
        raise Refused(refused)
    return {**table.limits, **{name: given.value for name, given in request.limits.items()}}


def _check_name(served: str, table: MappingTable) -> None:
    for text, why in table.served_name.items():
        if text in served:
            raise refuse("spec.model.servedName", served, why.reason, why.fix)


def _check_match(request: Request, resolved: list[Resolved], table: MappingTable) -> None:
    if request.mode != "disagg":
        return
    values = [{item.name: item for item in role.parameters} for role in resolved]
    problems = []
    for name in table.must_match:
        found = [role.get(name) for role in values]
        if len({None if item is None else item.value for item in found}) > 1:
            item = next(item for item in reversed(found) if item is not None)
            reason = f"prefill and decode must have the same {name}: the KV cache goes from one to the other"
            problems.append(Problem(item.detail, shorten(item.value), reason, "Set it for both in spec.parameters."))
    if problems:
        raise Refused(problems)


def _role(
    request: Request,
    *,
    role: RoleRequest,
    values: Resolved,
    of_all: Mapping[str, Mapping[str, Value]],
    table: MappingTable,
    limits: Mapping[str, Value | None],
    templates: tuple[YamlTemplate, Mapping[str, YamlTemplate]],
) -> RoleRendering:
    """Command line and files of one role; `names` below is everything that its templates see.

    `of_all` are the parameters of each role: a template sees its own as `params.x`, another's as `params.decode.x`.
    """
    arguments, files = templates
    flags = [argument for target in values.targets for argument in target.arguments]
    settings = {name: value for target in values.targets for name, value in target.settings}
    names = {
        **request.names,
        "model": {
            "path": request.model.path,
            "served_name": request.model.served_name,
            "revision": request.model.revision,
        },
        "role": role.name,
        "mode": request.mode,
        "backend": table.backend,
        "version": table.version,
        "params": {**of_all[role.name], **of_all},
        "limits": limits,
        "flags": flags,
        "settings": _nested(settings),
    }
    rendered = _arguments(arguments, names)
    return RoleRendering(
        role=role.name,
        command=(*table.command, *rendered, *role.extra_arguments),
        files={name: template.text(names) for name, template in files.items()},
        environment={name: value for target in values.targets for name, value in target.environment},
        settings=settings,
        parameters=values.parameters,
        trace=values.trace,
        warnings=(
            *(item.warning for item in values.parameters if item.note),
            *extra_warnings(role.extra_arguments, role.extra_path, table, values.parameters),
        ),
    )


def _nested(settings: Mapping[str, Value | None]) -> dict[str, Any]:
    """Settings with dotted names as the tree that they are in the file."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *above, last = name.split(".")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def _arguments(template: YamlTemplate, names: Mapping[str, object]) -> tuple[Argument, ...]:
    """The command line: a YAML list of texts, numbers and `{env: NAME}`."""
    _, document = template.render(names)
    if not isinstance(document, list):
        raise refuse(template.location, None, "the template must give a YAML list of arguments", "Begin lines with -.")
    arguments: list[Argument] = []
    for index, item in enumerate(document):
        match item:
            case bool() | None | list():
                pass
            case {"env": str(name), **rest} if not rest:
                arguments.append(EnvRef(name))
                continue
            case str() | int() | float():
                arguments.append(str(item))
                continue
        where = f"{template.location}: argument {index + 1}"
        raise refuse(where, item, "an argument is a text, a number or {env: NAME}", "Put quotes around it.")
    return tuple(arguments)
