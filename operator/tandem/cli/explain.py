"""`tandem explain`: every engine parameter with its value, where that comes from, and what it became."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import yaml
from pydantic.alias_generators import to_camel

from tandem.api.deployment import Backend, Limits, Mode, ModelDeployment
from tandem.api.mistakes import simplified
from tandem.api.parameters import SHORT_NAMES, EngineParameters
from tandem.api.problems import Refused, refuse
from tandem.cli.cluster import cluster_from, cluster_options
from tandem.cli.facts import blueprint_option
from tandem.cli.portability import Asked, portability_text
from tandem.cli.source import check_directories, deployments_in, engine_hints, file_option
from tandem.cli.texts import told_at
from tandem.generator.counterfactual import without
from tandem.manifests import Build, Cluster, RuleHit, build
from tandem.manifests.model import Deadline
from tandem.manifests.timing import STARTUP_DEADLINE
from tandem.rendering.mapping import Entry, MappingTable

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint

_HEADINGS = ("DEPLOYMENT", "ROLE", "PARAMETER", "VALUE", "SOURCE", "FROM", "DEFAULT", "ARGUMENTS")
_GIVEN = ("user", "parameters", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Default:
    """What would be in effect if the user had said nothing; `why_not` tells why that cannot be."""

    value: object = None
    source: str = ""
    detail: str = ""
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One value in effect. `source` is that of `ParameterValue`, or engine: nobody gave one, so its own default holds.

    `name` is as in YAML, below `parameters` or with `limits.` before it. `default` is None where the value itself is
    what would be in effect anyway. `note` tells what is lost on the way to the arguments.
    """

    role: str
    name: str
    value: object
    source: str
    detail: str
    arguments: tuple[str, ...] = ()
    default: _Default | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Explained:
    """A deployment with the values and rule hits that were asked for; `absent` says why there is none.

    `single`: one parameter was asked for. `warnings` are what a user should know although it works.
    """

    deployment: ModelDeployment
    rows: tuple[_Row, ...]
    hits: tuple[RuleHit, ...]
    single: bool
    absent: str = ""
    warnings: tuple[str, ...] = ()


@click.command(
    "explain",
    short_help="Show each engine parameter with the source of its value.",
    epilog="Example: tandem explain -f deployment.yaml maxNumTokens; tandem explain --backend sglang",
)
@file_option("File with one or more ModelDeployments", required=False)
@click.argument("argument", metavar="[PARAM]", required=False)
@click.option("--parameter", metavar="PARAM", help="The same as PARAM.")
@click.option("--all", "every", is_flag=True, help="Also what nobody gave a value, so that the engine decides.")
@click.option(
    "--backend", type=click.Choice(get_args(Backend)), help="Tell what becomes of parameters on this backend."
)
@click.option("--backend-version", metavar="V", help="Version of that backend; default: the preferred one.")
@click.option("--mode", type=click.Choice(["agg", "disagg"]), help="Mode for --backend without a file.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@blueprint_option
@cluster_options
def command(
    *,
    file: Path | None,
    argument: str | None,
    parameter: str | None,
    every: bool,
    backend: str | None,
    backend_version: str | None,
    mode: Mode | None,
    output: str,
    blueprint: Blueprint | None,
    **cluster: Any,
) -> None:
    """Shows the engine parameters and limits in effect: value, source, place, and the arguments they became.

    Sources: user (the role's own), parameters (spec.parameters), limits (spec.limits), rule, default (Tandem's for this
    backend), blueprint, engine (nobody gave a value: the engine's own default holds). With PARAM: only that one, what
    each rule did to it.

    With --backend: every parameter, or those that the file gives, with what becomes of it there (mapped, limited to
    some values, approximated, refused).

    The table has first what was given, then what follows from it; what the engine decides only with --all or PARAM.
    Long values are cut in it; -o json and -o yaml have everything.

    With -o json, problems are told on stderr as {"problems": [{path, value, reason, fix}]}; the exit code is 1.
    """
    facts = cluster_from(**cluster)
    if backend is not None:
        deployments = [] if file is None else [found for found, _ in deployments_in(file, facts.library)]
        asked = Asked(backend, backend_version, mode or "disagg")
        with told_at({"spec.backend": "--backend", "spec.backendVersion": "--backend-version"}):
            click.echo(portability_text(facts.library, asked, deployments, output), nl=False)
        return
    if file is None:
        raise click.UsageError("Missing option '-f' / '--file', or a backend with --backend.")
    if backend_version is not None or mode is not None:
        raise click.UsageError("--backend-version and --mode need --backend")
    wanted = parameter or argument
    name = None if wanted is None else _known(wanted, engine_hints(facts.library))
    explained = []
    for deployment, source in deployments_in(file, facts.library):
        with source.locating():
            check_directories(deployment, facts)
            explained.append(_explain(deployment, facts, name, blueprint))
    if output == "table":
        click.echo(_table(explained, every=every or name is not None))
    elif output == "json":
        click.echo(json.dumps(_document(explained), indent=2))
    else:
        click.echo(yaml.safe_dump(_document(explained), sort_keys=False), nl=False)


def _known(parameter: str, hints: Mapping[str, str]) -> str:
    """The name as in YAML, however it was written; an engine's own name leads to it."""
    known = {simplified(name): name for name in _names()}
    asked = simplified(parameter)
    if asked in known:
        return known[asked]
    short = {simplified(name): to_camel(full) for name, full in SHORT_NAMES.items()}
    meant = short.get(asked) or hints.get(asked)
    if meant is not None:
        raise refuse("PARAM", parameter, "this is no unified name", f"Ask for {meant.partition(':')[0]}.")
    near = [known[form] for form in difflib.get_close_matches(asked, known, n=3)]
    fix = f"Did you mean {' or '.join(near)}?" if near else "tandem schema lists all."
    raise refuse("PARAM", parameter, "there is no such parameter", fix)


def _names() -> dict[str, str]:
    """The Python name of everything that can be asked for, by its name in YAML; limits have `limits.` before it."""
    limits = {f"limits.{to_camel(name)}": name for name in Limits.model_fields}
    return {to_camel(name): name for name in (*EngineParameters.model_fields, STARTUP_DEADLINE)} | limits


def _explain(
    deployment: ModelDeployment, cluster: Cluster, name: str | None, blueprint: Blueprint | None
) -> _Explained:
    built = build(deployment, blueprint=blueprint, cluster=cluster)
    table = cluster.library.table(deployment.spec.backend, deployment.spec.backend_version)
    given = {value.name for value in built.parameters if value.source in ("user", "parameters")}
    defaults = {
        each: _defaults(deployment, cluster, each, table, blueprint) for each in given if name in (None, to_camel(each))
    }
    rows = [*_parameter_rows(deployment, built, table, defaults), *_limit_rows(deployment, table)]
    asked = tuple(row for row in rows if name in (None, row.name))
    hits = tuple(hit for hit in built.rule_trace if name == to_camel(hit.name))
    absent = "" if asked or name is None else _why_absent(name, table, deployment)
    warnings = (*built.warnings, *map(str, built.misfits)) if name is None else ()
    return _Explained(deployment, asked, hits, name is not None, absent, warnings)


def _defaults(
    deployment: ModelDeployment, cluster: Cluster, name: str, table: MappingTable, blueprint: Blueprint | None
) -> dict[str, _Default]:
    """What the parameter `name` would be, by role, if the user had not given it."""
    found = {}
    for role, value in without(deployment, name, cluster=cluster, blueprint=blueprint).items():
        if value is None:
            found[role] = _Default(source="engine", detail=_engine(table))
        elif isinstance(value, Refused):
            found[role] = _Default(why_not=str(value.problems[0]))
        else:
            found[role] = _Default(value=value.value, source=value.source, detail=value.detail)
    return found


def _parameter_rows(
    deployment: ModelDeployment,
    built: Build,
    table: MappingTable,
    defaults: Mapping[str, Mapping[str, _Default]],
) -> Iterator[_Row]:
    """By role, what has a value from here before what the engine decides; what this backend has not is left out."""
    for role in deployment.role_names():
        given = [value for value in built.parameters if value.role == role]
        for value in given:
            by_user = value.source in ("user", "parameters")
            yield _Row(
                role=role,
                name=to_camel(value.name),
                value=value.value,
                source=value.source,
                detail=value.detail,
                arguments=value.arguments,
                default=defaults.get(value.name, {}).get(role) if by_user else None,
                note=value.note,
            )
        yield from (_deadline_row(each) for each in built.deadlines if each.in_effect.role == role)
        others = set(table.entries) - {value.name for value in given}
        for name, entry in table.entries.items():
            if name in others and entry.supported and entry.mode in (None, deployment.spec.mode):
                yield _Row(role=role, name=to_camel(name), value=_fixed(entry), source="engine", detail=_engine(table))


def _deadline_row(deadline: Deadline) -> _Row:
    value, other = deadline.in_effect, deadline.otherwise
    default = None if other is None else _Default(value=other.value, source=other.source, detail=other.detail)
    name, source = to_camel(value.name), value.source
    return _Row(role=value.role, name=name, value=value.value, source=source, detail=value.detail, default=default)


def _limit_rows(deployment: ModelDeployment, table: MappingTable) -> Iterator[_Row]:
    limits = deployment.spec.limits or Limits()
    for name, default in table.limits.items():
        given, shown = getattr(limits, name), f"limits.{to_camel(name)}"
        if given is not None:
            origin = ("default", _file(table)) if default is not None else ("engine", _engine(table))
            otherwise = _Default(value=default, source=origin[0], detail=origin[1])
            yield _Row(role="*", name=shown, value=given, source="limits", detail=f"spec.{shown}", default=otherwise)
        elif default is not None:
            yield _Row(role="*", name=shown, value=default, source="default", detail=_file(table))
        else:
            yield _Row(role="*", name=shown, value=None, source="engine", detail=_engine(table))


def _engine(table: MappingTable) -> str:
    return f"{table.backend} {table.version}"


def _file(table: MappingTable) -> str:
    return f"templates/{table.backend}/mapping.{table.version}.yaml"


def _fixed(entry: Entry) -> object:
    """The value that the engine has anyway, where it is the only one that it can have."""
    cases = entry.cases or {}
    return yaml.safe_load(next(iter(cases))) if len(cases) == 1 else None


def _why_absent(name: str, table: MappingTable, deployment: ModelDeployment) -> str:
    own = _names()[name]
    if own == STARTUP_DEADLINE:
        return f"{name}: a podTemplate has taken the startupProbe out."
    refused = table.limits_refused[own] if name.startswith("limits.") else table.entries[own].otherwise
    mode = None if name.startswith("limits.") else table.entries[own].mode
    if mode not in (None, deployment.spec.mode):
        return f"{name} means something in mode {mode} only."
    return f"{name} cannot be had on {_engine(table)}: {refused.reason}. {refused.fix}"


def _table(explained: Sequence[_Explained], *, every: bool) -> str:
    shown = [
        (each, row) for each in explained for row in sorted(each.rows, key=_rank) if every or row.source != "engine"
    ]
    rows = [
        (
            each.deployment.metadata.name,
            row.role,
            row.name,
            _text(row.value),
            row.source,
            row.detail,
            _default_text(row),
            _cut(" ".join(row.arguments)) or "-",
        )
        for each, row in shown
    ]
    lines = list(_aligned((_HEADINGS, *rows))) if rows else []
    if hidden := sum(len(each.rows) for each in explained) - len(shown):
        lines.append(f"The engine decides {hidden} more; --all shows them.")
    lines += [f"{each.deployment.metadata.name}: {each.absent}" for each in explained if each.absent]
    for each in explained:
        lines += [line for hit in each.hits for line in _hit_lines(hit)]
        lines += [line for row in each.rows for line in _row_lines(row) if each.single]
        lines += [f"warning: {text}" for text in each.warnings]
    return "\n".join(lines)


def _rank(row: _Row) -> int:
    """Given values first, then those that follow; the order of roles stays within each."""
    return 0 if row.source in _GIVEN else 2 if row.source == "engine" else 1


def _default_text(row: _Row) -> str:
    if row.default is None:
        return _text(row.value)
    return "must be given" if row.default.why_not else _text(row.default.value)


def _row_lines(row: _Row) -> Iterator[str]:
    """What the table has no room for."""
    if row.note:
        yield f"{row.role} {row.name}: {row.note}"
    if row.default is not None:
        found = row.default
        told = found.why_not or f"{_text(found.value)} ({found.source} {found.detail})"
        yield f"{row.role} {row.name} without the user's value: {told}"


def _hit_lines(hit: RuleHit) -> Iterable[str]:
    """What a line of a rule file did, and below it the conditions that decided whether it was evaluated."""
    gives = "" if hit.value is None else f" gives {_text(hit.value)}"
    yield f"{hit.location}: {hit.role} {to_camel(hit.name)} = {hit.expression}{gives}: {hit.outcome}"
    yield from (f"    {condition}: holds" for condition in hit.held)
    if hit.failed:
        yield f"    {hit.failed}: does not hold"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cut(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple) and len(value) > 8:
        return f"[{value[0]}, {value[1]}, … {value[-1]}] ({len(value)} values)"
    return json.dumps(value) if isinstance(value, bool | tuple) else str(value)


def _document(explained: Sequence[_Explained]) -> list[dict[str, Any]]:
    return [
        {
            "deployment": each.deployment.metadata.name,
            "parameters": [_row_document(row) for row in each.rows],
            "warnings": list(each.warnings),
            "rules": [
                {
                    "role": hit.role,
                    "name": to_camel(hit.name),
                    "value": _plain(hit.value),
                    "location": hit.location,
                    "outcome": hit.outcome,
                    "expression": hit.expression,
                    "held": list(hit.held),
                    "failed": hit.failed or None,
                }
                for hit in each.hits
            ],
        }
        for each in explained
    ]


def _row_document(row: _Row) -> dict[str, Any]:
    return {
        "role": row.role,
        "name": row.name,
        "value": _plain(row.value),
        "source": row.source,
        "detail": row.detail,
        "arguments": list(row.arguments),
        "default": _default_document(row),
        "note": row.note,
    }


def _default_document(row: _Row) -> dict[str, object]:
    found = row.default or _Default(value=row.value, source=row.source, detail=row.detail)
    if found.why_not:
        return {"mustBeGiven": found.why_not}
    return {"value": _plain(found.value), "source": found.source, "detail": found.detail}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
