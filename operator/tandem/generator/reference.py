"""What can be written: every input and every unified parameter, with type, bounds, defaults and flags. Pure.

`tandem schema`, `tandem generator --generator-help` and the reference page are made from it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from tandem.api.parameters import EngineParameters
from tandem.generator.portability import Row, report
from tandem.generator.schemas import Entry, FirstOf, Schema
from tandem.rendering.library import Library
from tandem.rendering.mapping import PARAMETER_NAMES
from tandem.rendering.pipeline import ModelFacts, Request, RoleRequest, render
from tandem.rendering.values import as_text

_MODES: Mapping[str, tuple[str, ...]] = {"agg": ("agg",), "disagg": ("prefill", "decode")}
_NAMES: Mapping[str, object] = {"port": 8000, "config_dir": "/etc/tandem"}


@dataclass(frozen=True, slots=True)
class InputRow:
    """One key of inputs; `defaults` has a default per backend, where there is one."""

    key: str
    type: str
    required: bool
    defaults: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class BackendColumn:
    """A parameter on a backend: its flags, the values that rules and defaults give it by role, why it is refused."""

    flags: tuple[str, ...]
    defaults: Mapping[str, str]
    refused: str


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One unified parameter. `bounds` is empty where the type says all."""

    name: str
    input: str
    type: str
    bounds: str
    description: str
    backends: Mapping[str, BackendColumn]


@dataclass(frozen=True, slots=True)
class Reference:
    """All rows; `versions` are the versions of the backends that they are about."""

    versions: Mapping[str, str]
    inputs: tuple[InputRow, ...]
    parameters: tuple[ParameterRow, ...]

    def document(self) -> dict[str, Any]:
        """The rows as plain values, for JSON and YAML."""
        return {
            "versions": dict(self.versions),
            "inputs": [asdict(row) for row in self.inputs],
            "parameters": [
                {**asdict(row), "backends": {name: _plain(column) for name, column in row.backends.items()}}
                for row in self.parameters
            ],
        }


def reference(library: Library, schema: Schema, *, backend: str | None = None, version: str | None = None) -> Reference:
    """The reference of all served backends at their preferred versions, or of one; raises `Refused`."""
    names = [backend] if backend else [name for name in library.tables if library.tables[name]]
    tables = {name: library.table(name, version) for name in names}
    reports = {name: {row.name: row for row in report(library, name, version=version)} for name in names}
    defaults = {name: _defaults(library, name, version) for name in names}
    shapes = EngineParameters.model_json_schema(by_alias=False)["properties"]
    parameters = (
        ParameterRow(
            name=to_camel(name),
            input=f"Workers.<role>.{name}",
            type=_type(shapes[name]),
            bounds=_bounds(shapes[name]),
            description=shapes[name].get("description", ""),
            backends={each: _column(reports[each][name], defaults[each].get(name, {})) for each in names},
        )
        for name in PARAMETER_NAMES
    )
    images = {name: table.image for name, table in tables.items()}
    inputs = (_input(entry, images) for entry in schema.entries.values() if any(map(entry.known_to, names)))
    versions = {name: table.version for name, table in tables.items()}
    return Reference(versions, tuple(inputs), tuple(parameters))


def inputs_table(found: Reference) -> list[tuple[str, ...]]:
    """The keys of inputs as rows of texts, headings first."""
    rows = [
        (row.key, row.type, "required" if row.required else one_or_each(row.defaults), row.description)
        for row in found.inputs
    ]
    return [("KEY", "TYPE", "DEFAULT", "MEANING"), *rows]


def parameters_table(found: Reference) -> list[tuple[str, ...]]:
    """The parameters as rows of texts, headings first: a row for each backend; what is long is cut."""
    rows = [
        (
            row.name,
            shortened(f"{row.type} {row.bounds}".strip(), 30),
            f"{name} {version}",
            shortened(_arguments(row.backends[name]), 48),
            shortened(one_or_each(row.backends[name].defaults), 36),
        )
        for row in found.parameters
        for name, version in found.versions.items()
    ]
    return [("PARAMETER", "TYPE", "BACKEND", "ARGUMENTS", "DEFAULT"), *rows]


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Rows as lines with columns of equal width; the last one keeps its own, or is wrapped where a line ends."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    before = sum(widths) + 2 * len(widths)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        last = textwrap.wrap(row[-1], width - before) if width is not None and width - before >= 20 else [row[-1]]
        yield "  ".join([*cells, *last[:1]]).rstrip()
        yield from (" " * before + line for line in last[1:])


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of a text."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _column(row: Row, defaults: Mapping[str, str]) -> BackendColumn:
    return BackendColumn(row.flags, defaults, row.reason if row.status == "refused" else "")


def _plain(column: BackendColumn) -> dict[str, Any]:
    return {"flags": list(column.flags), "defaults": dict(column.defaults), "refused": column.refused}


def _arguments(column: BackendColumn) -> str:
    return "refused" if column.refused else " | ".join(column.flags) or "(no flag)"


def one_or_each(values: Mapping[str, str]) -> str:
    """One value when all are the same, else each with its name."""
    if len(set(values.values())) <= 1:
        return next((value if value else "''" for value in values.values()), "-")
    return " ".join(f"{name}={value}" for name, value in values.items())


def _defaults(library: Library, backend: str, version: str | None) -> dict[str, dict[str, str]]:
    """What rules and the backend's defaults give when nobody says anything, by parameter and role."""
    found: dict[str, dict[str, str]] = {}
    for mode, roles in _MODES.items():
        request = Request(
            backend=backend,
            version=version,
            mode=mode,
            rule_set="production",
            roles=tuple(RoleRequest(name=role, given={}) for role in roles),
            model=ModelFacts(path="any/model", served_name="model", revision="main"),
            names=_NAMES,
        )
        for role in render(request, library).roles:
            for value in role.parameters:
                found.setdefault(value.name, {})[role.role] = as_text(value.value)
    return found


def _input(entry: Entry, images: Mapping[str, str]) -> InputRow:
    defaults = {}
    for backend, image in images.items():
        if entry.known_to(backend):
            value = entry.backend_defaults.get(backend, entry.default)
            if isinstance(value, FirstOf):
                value = image if value.keys == ("backend_image",) else f"as {' or '.join(value.keys)}"
            if value is not None:
                defaults[backend] = as_text(value)
    return InputRow(entry.key, entry.type, entry.required, defaults, entry.description)


def _inner(shape: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        (branch for branch in shape.get("anyOf", ()) if branch.get("type") != "null"), shape
    )
    return found


def _type(shape: Mapping[str, Any]) -> str:
    inner = _inner(shape)
    if "enum" in inner:
        return "one of " + ", ".join(map(str, inner["enum"]))
    if inner.get("type") == "array":
        return f"list of {inner['items'].get('type')}"
    return str(inner.get("type"))


def _bounds(shape: Mapping[str, Any]) -> str:
    inner = _inner(shape)
    inner = inner.get("items", inner)
    low, high = inner.get("minimum", inner.get("exclusiveMinimum")), inner.get("maximum", inner.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    opening, closing = "(" if "exclusiveMinimum" in inner else "[", ")" if "exclusiveMaximum" in inner else "]"
    return f"{opening}{json.dumps(low)}, {json.dumps(high)}{closing}"


def help_text(found: Reference, section: str, *, width: int | None = None) -> str:
    """The tables of `--generator-help`: deploy, backend or all; `width`: of the terminal, where lines are wrapped."""
    blocks = []
    if section in ("deploy", "all"):
        rows = [(key, kind, shortened(default, 34), meaning) for key, kind, default, meaning in inputs_table(found)]
        blocks.append("\n".join(aligned(rows, width)))
    if section in ("backend", "all"):
        blocks.append("\n".join(aligned(parameters_table(found), width)))
    return "\n\n".join(blocks) + "\n"
