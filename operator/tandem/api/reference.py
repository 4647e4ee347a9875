"""The reference of the resources as Markdown, from the CRDs: `python -m tandem.api.reference [--check] [DIRECTORY]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tandem.api.crd import KINDS, Kind, crd
from tandem.api.generated import write_or_check

Schema = dict[str, Any]
_NOTE = "<!-- generated from the models by python -m tandem.api.reference: do not edit -->"


def reference(kind: Kind) -> str:
    """The page of one kind: every field of spec and status, and what is refused."""
    version = crd(kind)["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    parts = [
        _NOTE,
        f"# {kind.name}\n\n{version['schema']['openAPIV3Schema']['description']}",
        f"Short name `{kind.short}`, API version `tandem.dev/{version['name']}`.",
        "## spec\n\n" + _table(_rows(properties["spec"], "", required=True)),
        "## Refused\n\n" + "\n".join(f"- `{path}`: {message}." for path, message in _rules(properties["spec"], "spec")),
        "## status\n\n" + _table(_rows(properties["status"], "", required=False)),
    ]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """File name and text of every page."""
    return {f"{kind.name.lower()}.md": reference(kind) for kind in KINDS}


def _rows(schema: Schema, prefix: str, *, required: bool) -> Iterator[tuple[str, str, str, str]]:
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        needed = "required" if required and name in schema.get("required", ()) else _default(child)
        yield path, _type(child), needed, _text(child)
        nested, suffix = (child["items"], "[].") if child.get("type") == "array" else (child, ".")
        if "additionalProperties" in nested:
            nested, suffix = nested["additionalProperties"], f"{suffix}*."
        yield from _rows(nested, path + suffix, required=required)


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema["type"]) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    opening = "(" if schema.get("exclusiveMinimum") else "["
    return f" {opening}{'' if low is None else low}, {'' if high is None else high}]"


def _default(schema: Schema) -> str:
    return f"`{schema['default']}`" if "default" in schema and schema["default"] != "" else ""


def _text(schema: Schema) -> str:
    return str(schema.get("description", "")).replace("|", "\\|")


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in rows]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Writes the pages, or with --check tells which are stale (exit 1)."""
    return write_or_check(pages(), arguments, default="docs/reference")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
