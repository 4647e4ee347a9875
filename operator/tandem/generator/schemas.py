"""The schema of generator inputs, and how a key gets its value: user, then backend default, then default.

The schema is data (`config/deployment_config.yaml`). Nothing is kept between calls.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

import yaml

from tandem.api.problems import Problem, Refused, refuse, shorten

Scalar = str | int | float | bool
KeyType = Literal["string", "integer", "number", "boolean"]
# What a default can refer to beside the keys above it.
FACTS = ("backend_image",)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_WORDS = {"string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
_FIELDS = frozenset(("key", "type", "required", "default", "backends", "backend_defaults", "description"))


@dataclass(frozen=True, slots=True)
class FirstOf:
    """A default that is the value of the first of `keys` that has one and is not empty."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key. `backends` is None when every backend knows it; without a default (None) it may stay unset."""

    key: str
    type: KeyType
    required: bool = False
    default: Scalar | FirstOf | None = None
    backends: frozenset[str] | None = None
    backend_defaults: Mapping[str, Scalar] = field(default_factory=dict)
    description: str = ""

    def known_to(self, backend: str | None) -> bool:
        """Whether inputs for `backend` may hold the key."""
        return self.backends is None or backend in self.backends


@dataclass(frozen=True, slots=True)
class Resolved:
    """The value of a key and where it comes from."""

    value: Scalar
    source: Literal["user", "backend default", "default"]


@dataclass(frozen=True, slots=True)
class Schema:
    """All keys, in the order of the file."""

    entries: Mapping[str, Entry]

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The names of each group; keys without a group are under the empty name."""
        found: dict[str, list[str]] = {}
        for key in self.entries:
            group, _, name = key.rpartition(".")
            found.setdefault(group, []).append(name)
        return {group: tuple(names) for group, names in found.items()}

    def resolve(
        self, given: Mapping[str, object], *, backend: str | None, facts: Mapping[str, Scalar | None]
    ) -> dict[str, Resolved]:
        """The value of every key that has one; raises `Refused` with every mistake.

        `given` is what the user wrote, by key; None counts as not given. `facts` has the values of `FACTS`.
        """
        problems = [_unknown(key, self.entries) for key in given if key not in self.entries]
        found: dict[str, Resolved] = {}
        names: dict[str, Scalar | None] = dict(facts)
        for key, entry in self.entries.items():
            value = given.get(key)
            try:
                resolved = _user_value(entry, value, backend) or _default(entry, backend, names)
            except Refused as refused:
                problems += refused.problems
                continue
            if resolved is not None:
                found[key] = resolved
                names[key] = resolved.value
            elif entry.required:
                problems.append(_missing(key))
        if problems:
            raise Refused(problems)
        return found


def load_schema() -> Schema:
    """The shipped schema."""
    path = files("tandem.generator") / "config" / "deployment_config.yaml"
    return parse_schema(yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader), path.name)


def parse_schema(document: object, location: str) -> Schema:
    """A schema from its parsed YAML, named `location` in messages; raises `Refused` with every mistake."""
    items = document.get("inputs") if isinstance(document, dict) and set(document) == {"inputs"} else None
    if not isinstance(items, list):
        raise refuse(location, None, "a schema has one key, inputs, with a list", "See the shipped schema.")
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for index, item in enumerate(items):
        where = f"{location}: inputs[{index}]"
        try:
            entry = _entry(item, where, entries)
        except Refused as refused:
            problems += refused.problems
            continue
        entries[entry.key] = entry
    if problems:
        raise Refused(problems)
    return Schema(entries)


def _entry(item: Any, where: str, above: Mapping[str, Entry]) -> Entry:
    if not isinstance(item, dict) or not set(item) <= _FIELDS or not isinstance(item.get("key"), str):
        raise refuse(where, item, f"an entry has the fields {', '.join(sorted(_FIELDS))}", "Correct it.")
    key, kind = item["key"], item.get("type", "string")
    if kind not in _TYPES or key in above:
        reason = "this key is there twice" if key in above else "this type is not known"
        raise refuse(where, key if key in above else kind, reason, f"Types: {', '.join(_TYPES)}.")
    entry = Entry(
        key=key,
        type=kind,
        required=item.get("required") is True,
        backends=frozenset(item["backends"]) if item.get("backends") else None,
        backend_defaults=dict(item.get("backend_defaults") or {}),
        description=str(item.get("description", "")),
        default=_parsed_default(item.get("default"), where, above),
    )
    for value in (entry.default, *entry.backend_defaults.values()):
        if value is not None and not isinstance(value, FirstOf) and not _fits(entry, value):
            raise refuse(where, value, f"the default of {key} must be {_WORDS[kind]}", "Correct it.")
    return entry


def _parsed_default(raw: Any, where: str, above: Mapping[str, Entry]) -> Scalar | FirstOf | None:
    """A text is that text; only `{first_of: [KEY, …]}` refers to other keys."""
    if not isinstance(raw, dict):
        value: Scalar | None = raw
        return value
    keys = raw.get("first_of")
    if set(raw) != {"first_of"} or not isinstance(keys, list) or not keys:
        raise refuse(where, raw, "a default is a value or {first_of: [KEY, …]}", "Correct it.")
    unknown = [key for key in keys if key not in above and key not in FACTS]
    if unknown:
        raise refuse(where, unknown[0], "a default refers to keys above it", f"Use keys above it or {FACTS[0]}.")
    return FirstOf(tuple(keys))


def _user_value(entry: Entry, value: object, backend: str | None) -> Resolved | None:
    if value is None:
        return None
    if not entry.known_to(backend):
        served = ", ".join(sorted(entry.backends or ()))
        raise refuse(entry.key, value, f"only backend {served} knows it", "Remove it.")
    if not _fits(entry, value):
        raise refuse(entry.key, value, f"must be {_WORDS[entry.type]}", "Correct it.")
    return Resolved(value, "user")  # type: ignore[arg-type]


def _default(entry: Entry, backend: str | None, names: Mapping[str, Scalar | None]) -> Resolved | None:
    if not entry.known_to(backend):
        return None
    if backend is not None and backend in entry.backend_defaults:
        return Resolved(entry.backend_defaults[backend], "backend default")
    value = entry.default
    if isinstance(value, FirstOf):
        value = next((found for key in value.keys if (found := names.get(key)) not in (None, "")), None)
    return None if value is None else Resolved(value, "default")


def _fits(entry: Entry, value: object) -> bool:
    return isinstance(value, _TYPES[entry.type]) and (entry.type == "boolean" or not isinstance(value, bool))


def _missing(key: str) -> Problem:
    return Problem(key, "", f"Missing required input: {key}", "Give it in the input, or with --set.")


def _unknown(key: str, known: Mapping[str, Entry]) -> Problem:
    near = difflib.get_close_matches(key, known, n=1)
    fix = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
    return Problem(key, "", f"there is no input {shorten(key)}", fix)
