"""Hypothesis strategies over a CRD's structural schema: documents inside it, and single faults put into them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
OPAQUE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
# Amounts of resources that obey the rules among them, alone and together.
AMOUNTS = ({}, {"cpu": 1}, {"cpu": "500m", "memory": "4Gi"}, {"a.b/c": 1}, {"memory": 2**32, "a.b/c": "1"})


def documents(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the schema's own keywords allow (CEL rules are not looked at)."""
    if schema.get(OPAQUE):
        return st.just({"metadata": {"labels": {"team": "a"}}})
    if schema.get(INT_OR_STRING):
        return st.sampled_from([1, "500m", "4Gi"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _BY_TYPE[schema["type"]](schema)


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        return st.sampled_from(AMOUNTS) if schema["additionalProperties"].get(INT_OR_STRING) else st.just({})
    required = set(schema.get("required", ()))
    known = {name: documents(child) for name, child in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: strategy for name, strategy in known.items() if name in required},
        optional={name: strategy for name, strategy in known.items() if name not in required},
    )


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), min(schema.get("maxLength", 40), 40)
    if "pattern" in schema:
        ascii_only = st.characters(min_codepoint=32, max_codepoint=126)
        matching = st.from_regex(schema["pattern"].replace("$", r"\Z"), alphabet=ascii_only)
        return matching.filter(lambda text: low <= len(text) <= high)
    return st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=low, max_size=high)


def _numbers(schema: Schema) -> st.SearchStrategy[float]:
    return st.floats(
        schema.get("minimum", -1e6),
        schema.get("maximum", 1e6),
        exclude_min=schema.get("exclusiveMinimum", False),
        allow_nan=False,
        allow_subnormal=False,
    )


_BY_TYPE = {
    "object": _objects,
    "array": lambda schema: st.lists(
        documents(schema["items"]), min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 3), 3)
    ),
    "string": _strings,
    "integer": lambda schema: st.integers(schema.get("minimum", -1000), schema.get("maximum", 2**31)),
    "number": _numbers,
    "boolean": lambda _schema: st.booleans(),
}


def changed(document: dict[str, Any], schema: Schema) -> st.SearchStrategy[Any]:
    """`document` with one of its fields left out or drawn anew, or with one more: random ones seldom obey all rules."""
    fields = st.one_of(
        *(st.tuples(st.just(name), documents(child)) for name, child in schema["properties"].items()),
        st.sampled_from(sorted(document)).map(lambda name: (name, None)),
    )
    return fields.map(lambda field: {k: v for k, v in {**document, field[0]: field[1]}.items() if v is not None})


def faults(document: Any, schema: Schema) -> Iterator[tuple[str, Any]]:
    """Every way to spoil one node of `document`, as (what was done, the spoilt document)."""
    for path, node_schema in _nodes(document, schema, ()):
        for label, bad in _bad_values(node_schema):
            yield f"{'.'.join(map(str, path))}: {label}", _replaced(document, path, bad)
        if node_schema.get("type") == "object" and "properties" in node_schema:
            yield f"{'.'.join(map(str, path))}: unknown field", _replaced(document, (*path, "bogusField"), 1)


def _nodes(value: Any, schema: Schema, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Schema]]:
    if schema.get(OPAQUE) or schema.get(INT_OR_STRING):
        return
    if path:
        yield path, schema
    if isinstance(value, dict):
        for name, child in value.items():
            child_schema = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if child_schema:
                yield from _nodes(child, child_schema, (*path, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _nodes(child, schema["items"], (*path, index))


def _bad_values(schema: Schema) -> Iterator[tuple[str, Any]]:
    kind = schema.get("type")
    yield "wrong type", {"string": 7, "integer": "7", "number": "7", "boolean": "yes", "array": {}, "object": []}[kind]
    if "enum" in schema:
        yield "not in enum", "no-such-word"
    if "minimum" in schema:
        yield "below minimum", schema["minimum"] - (0 if schema.get("exclusiveMinimum") else 1)
    if "maximum" in schema:
        yield "above maximum", schema["maximum"] + 1
    if "pattern" in schema:
        yield "pattern", "\n"
    if schema.get("minLength"):
        yield "too short", ""
    if "maxLength" in schema and schema["maxLength"] < 3000:
        yield "too long", "a" * (schema["maxLength"] + 1)


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    spoilt = copy.deepcopy(document)
    parent = spoilt
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    return spoilt
