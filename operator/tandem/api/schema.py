"""From a pydantic model to a structural OpenAPI v3 schema, strictly: what it cannot express is an error with its path.

Kubernetes' rules: "Specifying a structural schema" in the documentation of CustomResourceDefinition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_COPIED = (
    "description",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
)
_READ = {
    "type",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "anyOf",
    "const",
    "$ref",
    "default",
    "title",
}
_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_INT_OR_STRING = "x-kubernetes-int-or-string"
_OPAQUE = "x-kubernetes-preserve-unknown-fields"


class SchemaError(Exception):
    """A model that has no structural schema; the message starts with the path."""


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`: no $ref, one type a node, nullable unions collapsed to optional fields."""
    source = model.model_json_schema(mode="validation", by_alias=True)
    defs = source.pop("$defs", {})
    return _convert(source, defs, model.__name__, ())


def _convert(node: Mapping[str, Any], defs: Mapping[str, Any], path: str, seen: tuple[str, ...]) -> Schema:
    node, seen = _resolve(node, defs, path, seen)
    result: Schema = {key: node[key] for key in _COPIED if key in node}
    result.update({key: value for key, value in node.items() if key.startswith("x-kubernetes-")})
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if node.get(_INT_OR_STRING):
        return result
    _check_known(node, path)
    if "const" in node:
        result["enum"] = [node["const"]]
    for exclusive, bound in _BOUNDS.items():
        if exclusive in node:
            result[bound] = node[exclusive]
            result[exclusive] = True
    if node.get("default") is not None:
        result["default"] = node["default"]
    kind = node.get("type") or ("string" if isinstance(node.get("const"), str) else None)
    if not isinstance(kind, str):
        raise SchemaError(f"{path}: no single type (found {kind!r})")
    result["type"] = kind
    if kind == "array":
        result["items"] = _convert(node.get("items", {}), defs, f"{path}[]", seen)
        result.setdefault("x-kubernetes-list-type", "atomic")
    elif kind == "object":
        _convert_object(node, defs, path, seen, result)
    return result


def _convert_object(
    node: Mapping[str, Any], defs: Mapping[str, Any], path: str, seen: tuple[str, ...], result: Schema
) -> None:
    if "properties" in node:
        result["properties"] = {
            name: _convert(child, defs, f"{path}.{name}", seen) for name, child in node["properties"].items()
        }
        if node.get("required"):
            result["required"] = sorted(node["required"])
    elif isinstance(node.get("additionalProperties"), Mapping):
        result["additionalProperties"] = _convert(node["additionalProperties"], defs, f"{path}.*", seen)
    elif not result.get(_OPAQUE):
        raise SchemaError(f"{path}: an object needs properties, value types or {_OPAQUE}")


def _resolve(
    node: Mapping[str, Any], defs: Mapping[str, Any], path: str, seen: tuple[str, ...]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """`node` with its reference inlined and `X | None` replaced by X; outer keywords win over inner ones."""
    while True:
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[-1]
            if name in seen:
                raise SchemaError(f"{path}: recursive model {name}")
            seen = (*seen, name)
            node = {**defs[name], **{key: value for key, value in node.items() if key != "$ref"}}
        elif "anyOf" in node and not node.get(_INT_OR_STRING):
            inner = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
            if len(inner) != 1:
                raise SchemaError(f"{path}: a union of {len(inner)} types has no structural schema")
            node = {**inner[0], **{key: value for key, value in node.items() if key != "anyOf"}}
        else:
            return node, seen


def _check_known(node: Mapping[str, Any], path: str) -> None:
    unknown = [
        key
        for key in node
        if key not in _READ and key not in _COPIED and key not in _BOUNDS and not key.startswith("x-kubernetes-")
    ]
    if unknown:
        raise SchemaError(f"{path}: keyword {unknown[0]!r} has no place in a structural schema")
