"""From what the user gave to the effective value of each parameter, with its source.

A value comes, in this order, from the role, from the values for all roles, from a rule, from the backend's default,
from the model's blueprint. Rules run in two phases: their lines are evaluated on a copy (`evaluation.py`), then what
they gave is applied. The input is never changed, so the same input gives the same values every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic.alias_generators import to_camel

from tandem.api.problems import Problem, Refused, shorten
from tandem.rendering.constraints import CONSTRAINTS
from tandem.rendering.evaluation import evaluate_rules
from tandem.rendering.mapping import PARAMETER_NAMES, MappingTable, Target, Unsupported
from tandem.rendering.rules import RuleFile
from tandem.rendering.values import ParameterValue, RuleHit, Source, Value

Chosen = tuple[Value, Source, str]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the user wrote, and where (`spec.parameters.maxSeqLen`)."""

    value: Value
    source: Source
    path: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The parameters of one role, what they became, and what the rules did."""

    parameters: tuple[ParameterValue, ...]
    targets: tuple[Target, ...]
    trace: tuple[RuleHit, ...]


def resolve(
    *,
    role: str,
    given: Mapping[str, Given],
    table: MappingTable,
    rules: RuleFile,
    context: Mapping[str, object],
    derived: Mapping[str, Given],
) -> Resolved:
    """Effective parameters of `role`; raises `Refused` with every value that the backend cannot honour.

    `context` has the values of `vocabulary.CONTEXT_NAMES`; `derived` are defaults that the model's facts give. Those
    that the backend cannot honour are left out.
    """
    given_by_table = {**table.defaults, **table.role_defaults.get(role, {})}
    defaults = {name: (value, "default", _default_path(table)) for name, value in given_by_table.items()}
    follows = {
        name: (found.value, found.source, found.path)
        for name, found in derived.items()
        if not isinstance(table.entries[name].target(found.value, str(context["mode"])), Unsupported)
    }
    chosen: dict[str, Chosen] = {**follows, **defaults}  # type: ignore[dict-item]
    trace = _run_rules(role, given, chosen, rules, context)
    chosen |= {
        hit.name: (hit.value, "rule", hit.location)
        for hit in trace
        if hit.outcome == "applied" and hit.value is not None
    }
    chosen |= {name: (value.value, value.source, value.path) for name, value in given.items()}
    return _map(role, chosen, table, str(context["mode"]), trace)


def _default_path(table: MappingTable) -> str:
    return f"templates/{table.backend}/mapping.{table.version}.yaml"


def _run_rules(
    role: str,
    given: Mapping[str, Given],
    fallback: Mapping[str, Chosen],
    rules: RuleFile,
    context: Mapping[str, object],
) -> tuple[RuleHit, ...]:
    if not rules.lines:
        return ()
    values: dict[str, object] = dict.fromkeys(PARAMETER_NAMES) | dict(context)
    values |= {name: value for name, (value, _, _) in fallback.items()}
    values |= {name: value.value for name, value in given.items()}
    return evaluate_rules(rules, role=role, values=values, given=given)


def _map(
    role: str,
    chosen: Mapping[str, Chosen],
    table: MappingTable,
    mode: str,
    trace: tuple[RuleHit, ...],
) -> Resolved:
    parameters, targets, problems = [], [], []
    taken: dict[str, str] = {}
    for name in PARAMETER_NAMES:
        if name not in chosen:
            continue
        value, source, path = chosen[name]
        target = table.entries[name].target(value, mode)
        if isinstance(target, Unsupported):
            reason = f"{table.backend} {table.version} cannot honour it: {target.reason}"
            problems.append(Problem(path, shorten(value), reason, target.fix))
            continue
        if clash := _clash(target, taken):
            reason = f"{table.backend} {table.version} has one place for it and for {to_camel(clash[1])}: {clash[0]}"
            problems.append(Problem(path, shorten(value), reason, f"Remove this or {to_camel(clash[1])}."))
        taken |= dict.fromkeys(_places(target), name)
        targets.append(target)
        parameters.append(ParameterValue(role, name, value, source, path, target.shown, target.note))
    problems += _broken(chosen, table)
    if problems:
        raise Refused(problems)
    return Resolved(tuple(parameters), tuple(targets), trace)


def _places(target: Target) -> tuple[str, ...]:
    """The flags, variables and settings that a target writes."""
    flags = (argument for argument in target.arguments if argument.startswith("--"))
    return (*flags, *(name for name, _ in (*target.environment, *target.settings)))


def _clash(target: Target, taken: Mapping[str, str]) -> tuple[str, str] | None:
    """A place that `target` writes, or that holds or is held by it, and the parameter that has taken it."""
    for place in _places(target):
        for other, name in taken.items():
            if place == other or place.startswith(f"{other}.") or other.startswith(f"{place}."):
                return other, name
    return None


def _broken(chosen: Mapping[str, Chosen], table: MappingTable) -> list[Problem]:
    values = {name: value for name, (value, _, _) in chosen.items()}
    found = (CONSTRAINTS[constraint](values) for constraint in table.constraints)
    return [
        Problem(chosen[broken.name][2], shorten(values[broken.name]), broken.reason, broken.fix)
        for broken in found
        if broken is not None
    ]
