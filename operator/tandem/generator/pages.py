"""The reference of parameters and generator inputs: `python -m tandem.generator.pages [--check] [DIRECTORY]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from pydantic.alias_generators import to_camel

from tandem.api.generated import write_or_check
from tandem.generator.portability import Row, report
from tandem.generator.reference import ParameterRow, Reference, inputs_table, one_or_each, reference
from tandem.generator.schemas import load_schema
from tandem.rendering.library import Library, load_library

_NOTE = "<!-- generated from the models and mapping tables by python -m tandem.generator.pages: do not edit -->"


def pages(library: Library) -> dict[str, str]:
    """File name and text of every page."""
    found = reference(library, load_schema())
    return {"parameters.md": _parameters(found, library), "generator.md": _inputs(found)}


def _parameters(found: Reference, library: Library) -> str:
    backends = [f"{name} {version}" for name, version in found.versions.items()]
    parts = [
        _NOTE,
        "# Parameters",
        "One name for one meaning, whatever the backend calls it. In a ModelDeployment they stand below "
        "`spec.parameters` and `spec.roles.<role>.parameters`; in an input of the generator, in snake_case, below "
        "`Workers.<role>`. `tandem schema` prints the same for one backend and version.",
        _table(
            ("parameter", "type", "meaning"),
            map(_meaning, found.parameters),
        ),
        "## What they become",
        "Versions other than these can differ: `tandem schema --backend B --version V`. *refused*: see below; "
        "*nothing*: the backend does it anyway.",
        _table(("parameter", *backends), (_flags(row, found) for row in found.parameters)),
        "## Without a value",
        "What the production rules and the tables give when nobody says anything. Where nothing stands, the engine "
        "decides.",
        _table(("parameter", *backends), _defaults(found)),
        "## Limited, approximated and refused",
    ]
    for name, version in found.versions.items():
        parts += [f"### {name} {version}", "\n".join(_remarks(report(library, name)))]
    return "\n\n".join(parts) + "\n"


def _inputs(found: Reference) -> str:
    parts = [
        _NOTE,
        "# Inputs of the generator",
        "Groups and keys of an input file of `tandem generator`; below `Workers.<role>` stand the "
        "[parameters](parameters.md) in snake_case. A key without default stays unset.",
        _table(("key", "type", "default", "meaning"), (_code(row) for row in inputs_table(found)[1:])),
    ]
    return "\n\n".join(parts) + "\n"


def _code(row: Sequence[str]) -> tuple[str, ...]:
    default = row[2] if row[2] in ("required", "-") or row[2].startswith("as ") else f"`{row[2]}`"
    return f"`{row[0]}`", row[1], default, row[3]


def _meaning(row: ParameterRow) -> tuple[str, ...]:
    return f"`{row.name}`", f"{row.type} {row.bounds}".strip(), row.description


def _flags(row: ParameterRow, found: Reference) -> tuple[str, ...]:
    columns = (row.backends[name] for name in found.versions)
    cells = ("*refused*" if each.refused else _joined(each.flags) or "*nothing*" for each in columns)
    return f"`{row.name}`", *cells


def _joined(flags: Iterable[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in flags)


def _defaults(found: Reference) -> Iterator[tuple[str, ...]]:
    for row in found.parameters:
        values = [row.backends[name].defaults for name in found.versions]
        if any(values):
            yield f"`{row.name}`", *(one_or_each(each) if each else "" for each in values)


def _remarks(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row.status != "mapped":
            yield f"- `{to_camel(row.name)}` {row.status}: {' '.join(filter(None, (row.reason + '.', row.fix)))}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str]) -> int:
    """Writes the pages, or with --check tells which are stale (exit 1)."""
    return write_or_check(pages(load_library()), arguments, default="docs/reference")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
