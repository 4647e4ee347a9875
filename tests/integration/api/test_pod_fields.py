"""What we know of the fields of pods, against what the API server itself publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tandem.api.podfields import FIELDS, TOP

pytestmark = pytest.mark.integration

CORE = "io.k8s.api.core.v1."
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
ANY = ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1")
TEXT = ("io.k8s.apimachinery.pkg.apis.meta.v1.Time",)
PLAIN = {"string": "str", "integer": "int", "boolean": "bool"}


@pytest.fixture(scope="module")
def schemas(control_plane) -> dict[str, Any]:
    published = json.loads(control_plane.kubectl("get", "--raw", "/openapi/v3/api/v1").stdout)
    return published["components"]["schemas"]


def differences(schemas: dict[str, Any], published: str, ours: str, seen: set[str], path: str) -> Iterator[str]:
    """Fields of the API server that we lack, or know with another type."""
    if ours in seen:
        return
    seen.add(ours)
    for name, node in schemas[published].get("properties", {}).items():
        where = f"{path}.{name}"
        known = FIELDS[ours].get(name)
        if known is None:
            yield f"{where}: unknown here"
            continue
        prefix, suffix = ("[", "]") if node.get("type") == "array" else ("{", "}") if mapped(node) else ("", "")
        if not (known.startswith(prefix) and known.endswith(suffix)):
            yield f"{where}: {known} here, {node.get('type')} there"
            continue
        inner = node["items"] if prefix == "[" else node["additionalProperties"] if prefix == "{" else node
        kind = known.removeprefix(prefix).removesuffix(suffix)
        reference = reference_of(inner)
        if reference is None or reference in (QUANTITY, *ANY, *TEXT):
            expected = plain(inner, reference)
            if kind != expected:
                yield f"{where}: {kind} here, {expected} there"
        else:
            yield from differences(schemas, reference, kind, seen, where)


def mapped(node: dict[str, Any]) -> bool:
    return "additionalProperties" in node


def reference_of(node: dict[str, Any]) -> str | None:
    found = node.get("$ref") or next((part["$ref"] for part in node.get("allOf", ()) if "$ref" in part), None)
    return None if found is None else found.rsplit("/", 1)[-1]


def plain(node: dict[str, Any], reference: str | None) -> str:
    if reference is None:
        return PLAIN[node["type"]]
    return "quantity" if reference == QUANTITY else "str" if reference in TEXT else "any"


def test_every_field_that_the_api_server_has_is_known_with_its_type(schemas):
    assert list(differences(schemas, f"{CORE}PodTemplateSpec", TOP, set(), "")) == []
