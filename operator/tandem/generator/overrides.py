"""`--set KEY=VALUE`: single values over an input file, cast by the type of their key. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tandem.api.parameters import EngineParameters
from tandem.api.problems import Problem, Refused, refuse
from tandem.generator.inputs import ROLES, WORKERS, merge, shorten_path
from tandem.generator.reading import read_data
from tandem.generator.schemas import Schema
from tandem.rendering.mapping import PARAMETER_NAMES

ValueType = Literal["string", "integer", "number", "boolean", "list", "any"]
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SEGMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NULL = ("null", "~", "")
_MAX_DIGITS = 64
_FIXES: Mapping[ValueType, str] = {
    "integer": "Write a whole number in plain digits.",
    "number": "Write a number in plain digits.",
    "boolean": "Write true or false.",
    "list": "Write a list, like [1,2,4].",
}


def parse_overrides(items: Iterable[str], *, schema: Schema, texts: Iterable[str] = ()) -> dict[str, Any]:
    """The nested dictionary that `KEY=VALUE` items stand for, the last one wins; raises `Refused` with every mistake.

    A dotted key makes nested dictionaries; the value begins after the first `=` and is read as the key's type (`null`
    or nothing: unset). Items of `texts` (`--set-string`) are taken as they are, after the others.
    """
    merged: dict[str, Any] = {}
    problems: list[Problem] = []
    for item, is_text in (*((item, False) for item in items), *((item, True) for item in texts)):
        try:
            merged = merge(merged, _override(item, schema, is_text=is_text))
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    return merged


def _override(item: str, schema: Schema, *, is_text: bool) -> dict[str, Any]:
    option = "--set-string" if is_text else "--set"
    key, sign, text = item.partition("=")
    segments = key.strip().split(".")
    if not sign:
        raise refuse(option, item, "there is no = in it", "Write KEY=VALUE.")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise refuse(option, item, "the key is not a dotted name", "Write GROUP.KEY=VALUE.")
    value: Any = text if is_text else _cast(text, type_of(segments, schema), f"{option} {shorten_path(key.strip())}")
    for segment in reversed(segments):
        value = {segment: value}
    nested: dict[str, Any] = value
    return nested


def type_of(segments: list[str], schema: Schema) -> ValueType:
    """The type of a key's values; `any` for groups and for keys that do not exist (which are refused later)."""
    if len(segments) == 3 and segments[0] == WORKERS and segments[1] in ROLES and segments[2] in PARAMETER_NAMES:
        return _parameter_type(segments[2])
    entry = schema.entries.get(
        ".".join(["WorkerConfig" if segments[0] == "WorkerCounts" else segments[0], *segments[1:]])
    )
    return "any" if entry is None else entry.type


def _parameter_type(name: str) -> ValueType:
    shape = EngineParameters.model_json_schema(by_alias=False)["properties"][name]
    kinds = [branch.get("type", "string") for branch in shape.get("anyOf", [shape])]
    found = next(kind for kind in kinds if kind != "null")
    return "list" if found == "array" else found


def _cast(text: str, kind: ValueType, where: str) -> Any:
    plain = text.strip()
    if plain in _NULL:
        return None
    match kind:
        case "string":
            return text
        case "boolean" if plain.lower() in ("true", "false"):
            return plain.lower() == "true"
        case "integer" if _INTEGER.fullmatch(plain) and len(plain) <= _MAX_DIGITS:
            return int(plain)
        case "number" if _NUMBER.fullmatch(plain) and len(plain) <= _MAX_DIGITS:
            return int(plain) if _INTEGER.fullmatch(plain) else float(plain)
        case "list" | "any":
            return _yaml(text, kind, where)
    words = "a whole number" if kind == "integer" else "a number" if kind == "number" else "true or false"
    raise refuse(where, text, f"must be {words}", _FIXES[kind])


def _yaml(text: str, kind: ValueType, where: str) -> Any:
    value = read_data(text, where)
    if kind == "list" and not isinstance(value, list):
        raise refuse(where, text, "must be a list", _FIXES["list"])
    return value
