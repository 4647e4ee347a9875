"""Generator inputs: nested dictionaries, checked against the schema, with mode and roles decided. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.api.deployment import Mode, RoleName
from tandem.api.parameters import SHORT_NAMES
from tandem.api.problems import Problem, Refused, refuse, shorten
from tandem.generator.schemas import Resolved, Scalar, Schema
from tandem.rendering.mapping import PARAMETER_NAMES

ROLES: tuple[RoleName, ...] = ("agg", "prefill", "decode")
WORKERS = "Workers"
_ALIASES: Mapping[str, str] = {"WorkerCounts": "WorkerConfig"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A checked input.

    `values` holds the schema's keys that have a value, `roles` the parameters of the mode's roles by unified name.
    """

    backend: str | None
    mode: Mode
    values: Mapping[str, Resolved]
    roles: Mapping[RoleName, Mapping[str, object]]

    def get(self, key: str) -> Scalar | None:
        """The value of a key, None when it has none."""
        found = self.values.get(key)
        return None if found is None else found.value

    def text(self, key: str) -> str:
        """The value of a key that is a text; empty when it has none."""
        found = self.get(key)
        return "" if found is None else str(found)

    def number(self, key: str) -> int:
        """The value of a key that is a whole number; 0 when it has none."""
        found = self.get(key)
        return found if isinstance(found, int) else 0

    def given(self, key: str) -> bool:
        """Whether the user wrote the key."""
        return key in self.values and self.values[key].source == "user"

    def workers(self, role: RoleName) -> int:
        """Number of workers of a role."""
        return self.number(f"WorkerConfig.{role}_workers")


def check_inputs(
    raw: object, *, schema: Schema, backend: str | None, facts: Mapping[str, Scalar | None] | None = None
) -> Inputs:
    """The input `raw` (groups of keys) with defaults; raises `Refused` with every mistake, located by dotted path."""
    if not isinstance(raw, Mapping):
        raise refuse("input", raw, "an input is a mapping of groups", f"Groups: {', '.join(_group_names(schema))}.")
    given, written, problems = _flattened(raw, schema)
    try:
        values = schema.resolve(given, backend=backend, facts=facts or {})
    except Refused as refused:
        raise Refused([*problems, *refused.problems]) from None
    if problems:
        raise Refused(problems)
    mode = _mode(values, written)
    roles: dict[RoleName, Mapping[str, object]] = (
        {"agg": written.get("agg", {})}
        if mode == "agg"
        else {"prefill": written.get("prefill", {}), "decode": written.get("decode", {})}
    )
    _check_counts(values, mode)
    return Inputs(backend=backend, mode=mode, values=values, roles=roles)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` merged in, group by group, as a new value; `over` wins."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


def _group_names(schema: Schema) -> list[str]:
    groups = schema.groups()
    return [*(group for group in groups if group), WORKERS, *groups.get("", ())]


def _flattened(
    raw: Mapping[Any, Any], schema: Schema
) -> tuple[dict[str, object], dict[RoleName, dict[str, object]], list[Problem]]:
    """Values by dotted key, parameters by role, and what is wrong with the shape."""
    groups, problems = schema.groups(), []
    given: dict[str, object] = {}
    written: dict[RoleName, dict[str, object]] = {}
    for name, value in raw.items():
        group = _ALIASES.get(name, name) if isinstance(name, str) else name
        if group == WORKERS:
            written, found = _workers(value)
            problems += found
        elif group in groups.get("", ()):
            given[group] = value
        elif group not in groups or not group:
            problems.append(_stranger(str(name), "group", _group_names(schema)))
        elif value is None:
            continue
        elif not isinstance(value, Mapping):
            problems.append(_no_mapping(str(name), value))
        else:
            for key, item in value.items():
                if key not in groups[group]:
                    problems.append(_stranger(f"{name}.{key}", "input", [f"{name}.{known}" for known in groups[group]]))
                elif given.setdefault(f"{group}.{key}", item) != item:
                    problems.append(Problem(f"{name}.{key}", shorten(item), "is given twice", "Give it once."))
    return given, written, problems


def _workers(raw: object) -> tuple[dict[RoleName, dict[str, object]], list[Problem]]:
    if raw is None:
        return {}, []
    if not isinstance(raw, Mapping):
        return {}, [_no_mapping(WORKERS, raw)]
    written: dict[RoleName, dict[str, object]] = {}
    problems = []
    for role, parameters in raw.items():
        path = f"{WORKERS}.{role}"
        if role not in ROLES:
            problems.append(_stranger(path, "role", [f"{WORKERS}.{known}" for known in ROLES]))
        elif parameters is not None and not isinstance(parameters, Mapping):
            problems.append(_no_mapping(path, parameters))
        else:
            written[role] = {name: value for name, value in (parameters or {}).items() if value is not None}
            problems += [
                _unknown_parameter(path, str(name)) for name in parameters or {} if name not in PARAMETER_NAMES
            ]
    return written, problems


def _mode(values: Mapping[str, Resolved], written: Mapping[RoleName, Mapping[str, object]]) -> Mode:
    """The mode that the user wrote, else the one that the roles speak of, else the default; never a guess."""
    said = {
        key: values[key].value
        for key in ("DynConfig.mode", "K8sConfig.mode")
        if key in values and values[key].source == "user"
    }
    for key, value in said.items():
        if value not in ("agg", "disagg"):
            raise refuse(key, value, "this mode does not exist", "Use agg or disagg.")
    if len(set(said.values())) > 1:
        value = said["K8sConfig.mode"]
        raise refuse("K8sConfig.mode", value, "DynConfig.mode says otherwise", "Give the mode once.")
    key, mode = next(iter(said.items()), ("", None))
    if mode is None:
        mode = "agg" if set(written) == {"agg"} else "disagg" if written else values["DynConfig.mode"].value
    surplus = [role for role in written if (role == "agg") is not (mode == "agg")]
    if surplus:
        path = f"{WORKERS}.{surplus[0]}"
        other = "disagg" if mode == "agg" else "agg"
        raise refuse(path, None, f"mode {mode} has no role {surplus[0]}", f"Remove it, or set DynConfig.mode: {other}.")
    missing = [role for role in ("prefill", "decode") if role not in written]
    if mode == "disagg" and len(missing) == 1:
        reason = "mode disagg has two roles, prefill and decode, and only one is given"
        raise refuse(f"{WORKERS}.{missing[0]}", None, reason, "Add it; {} is enough.")
    return "agg" if mode == "agg" else "disagg"


def _check_counts(values: Mapping[str, Resolved], mode: Mode) -> None:
    """A number of workers that the mode has no place for; the schema's own default says nothing."""
    for role in ROLES:
        key = f"WorkerConfig.{role}_workers"
        found = values.get(key)
        if (role == "agg") is not (mode == "agg") and found and found.source == "user" and found.value not in (0, 1):
            raise refuse(key, found.value, f"mode {mode} has no role {role}", "Remove it.")


def _unknown_parameter(path: str, name: str) -> Problem:
    if name in SHORT_NAMES:
        fix = f"Write {path}.{SHORT_NAMES[name]}."
        return Problem(f"{path}.{name}", "", "there is no such parameter", fix)
    return _stranger(f"{path}.{name}", "parameter", [f"{path}.{known}" for known in PARAMETER_NAMES])


def _stranger(path: str, what: str, known: list[str]) -> Problem:
    """What is not among the `known`, which stand in the same place and so differ in their last part."""
    by_last = {full.rpartition(".")[2]: full for full in known}
    near = difflib.get_close_matches(path.rpartition(".")[2], by_last, n=1, cutoff=0.5)
    fix = f"Did you mean {by_last[near[0]]}?" if near else f"Known: {', '.join(by_last)}."
    return Problem(shorten_path(path), "", f"there is no such {what}", fix)


def shorten_path(path: str) -> str:
    """A path that a user wrote, short and on one line."""
    text = path if path and path.isprintable() else repr(path)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _no_mapping(path: str, value: object) -> Problem:
    return Problem(path, shorten(value), "must be a mapping", "Write keys and values below it.")
