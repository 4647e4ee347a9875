"""What becomes of each unified parameter on a backend: mapped, limited, approximated or refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tandem.api.deployment import Mode
from tandem.api.problems import refuse
from tandem.rendering.library import Library
from tandem.rendering.mapping import PARAMETER_NAMES, Entry, Unsupported
from tandem.rendering.values import Value, as_text

# limited: only some values can be had.
Status = Literal["mapped", "limited", "approximated", "refused"]


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter on a backend. `flags` are the forms that its values take there.

    With a value that was asked about, `flags` are what that value becomes. `reason` tells what is lost or why the
    parameter is refused, `fix` what to do.
    """

    name: str
    value: str
    status: Status
    flags: tuple[str, ...]
    reason: str
    fix: str


def report(
    library: Library,
    backend: str,
    *,
    version: str | None = None,
    mode: Mode = "disagg",
    given: Mapping[str, Value] | None = None,
) -> tuple[Row, ...]:
    """A row for every parameter, or for each of `given` with its value; raises `Refused` for an unknown backend.

    A parameter is refused as a whole when none of its values can be had in `mode`.
    """
    table = library.table(backend, version)
    if given is None:
        return tuple(_row(name, table.entries[name], mode) for name in PARAMETER_NAMES)
    unknown = [name for name in given if name not in PARAMETER_NAMES]
    if unknown:
        raise refuse(unknown[0], None, "there is no such parameter", f"Known: {', '.join(PARAMETER_NAMES)}.")
    return tuple(_value_row(name, value, table.entries[name], mode) for name, value in given.items())


def _value_row(name: str, value: Value, entry: Entry, mode: Mode) -> Row:
    target = entry.target(value, mode)
    if isinstance(target, Unsupported):
        return Row(name, as_text(value), "refused", (), target.reason, target.fix)
    status: Status = "approximated" if target.note else "mapped"
    return Row(name, as_text(value), status, target.shown, target.note, "")


def _row(name: str, entry: Entry, mode: Mode) -> Row:
    if entry.mode is not None and entry.mode != mode:
        return Row(name, "", "refused", (), f"it means something in mode {entry.mode} only", "Remove it.")
    if not entry.supported:
        return Row(name, "", "refused", (), entry.otherwise.reason, entry.otherwise.fix)
    notes = "; ".join(f"{value}: {note}" for value, note in entry.notes.items())
    known = entry.cases if entry.cases is not None else entry.values
    partly = entry.cases is not None and len(entry.cases) == 1
    limits = f"only {', '.join(known)}: {entry.otherwise.reason}" if known is not None and partly else ""
    status: Status = "limited" if limits else "approximated" if notes else "mapped"
    return Row(
        name, "", status, entry.forms(), "; ".join(filter(None, (notes, limits))), entry.otherwise.fix if limits else ""
    )
