"""The one form in which a user's mistake is told: where, what, why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool
# FILE:LINE[:COLUMN][: PATH], the one form in which what stands in a file is located.
_IN_FILE = re.compile(r"(?P<file>.+?):(?P<line>[0-9]+)(?::(?P<column>[0-9]+))?(?:: (?P<path>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a problem is: in a file, lines and columns counted from 1, and which part of the document there."""

    path: str
    file: str | None = None
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in what a user gave.

    `path` locates it (`spec.roles.decode.replicas`, `deployment.yaml:3:7: spec.mode`), `value` is the offending value
    as text (empty when there is none), `reason` says why it cannot work and `fix` what to do instead. `raw` is a scalar
    value as it is, for readers that are programs.
    """

    path: str
    value: str
    reason: str
    fix: str
    raw: Scalar | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        shown = f" (got {self.value})" if self.value else ""
        return f"{self.path}: {self.reason}{shown}. {self.fix}".rstrip()

    @property
    def place(self) -> Place:
        """What `path` says, in parts."""
        match = _IN_FILE.fullmatch(self.path)
        if match is None:
            return Place(self.path)
        column = match["column"]
        return Place(match["path"] or "", match["file"], int(match["line"]), None if column is None else int(column))

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for `-o json`: place in parts, the value with its type, null for what there is not."""
        place = self.place
        return {
            "path": place.path,
            "file": place.file,
            "line": place.line,
            "column": place.column,
            "value": self.raw if self.raw is not None else self.value or None,
            "reason": self.reason,
            "fix": self.fix,
        }


class Refused(Exception):
    """Input that cannot be acted on; carries every problem that was found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def refuse(path: str, value: object, reason: str, fix: str) -> Refused:
    """A `Refused` of a single problem; `value` is shortened so that it stays readable (and None is left out)."""
    return Refused((Problem(path, shorten(value), reason, fix, raw_of(value)),))


def raw_of(value: object, limit: int = 4096) -> Scalar | None:
    """`value` where it is a scalar, a long text cut; else None."""
    return value[:limit] if isinstance(value, str) else value if isinstance(value, int | float | bool) else None


def shorten(value: object, limit: int = 120) -> str:
    """`value` as text of at most `limit` characters; empty for None."""
    if value is None:
        return ""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
