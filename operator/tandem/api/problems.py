"""The one form in which a user's mistake is told: where, what, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in what a user gave.

    `path` locates it (`spec.roles.decode.replicas`, `deployment.yaml:3:7`), `value` is the offending value as text
    (empty when there is none), `reason` says why it cannot work and `fix` what to do instead.
    """

    path: str
    value: str
    reason: str
    fix: str

    def __str__(self) -> str:
        shown = f" (got {self.value})" if self.value else ""
        return f"{self.path}: {self.reason}{shown}. {self.fix}".rstrip()

    def as_dict(self) -> dict[str, str]:
        """The four fields by name, for `-o json`."""
        return asdict(self)


class Refused(Exception):
    """Input that cannot be acted on; carries every problem that was found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def refuse(path: str, value: object, reason: str, fix: str) -> Refused:
    """A `Refused` of a single problem; `value` is shortened so that it stays readable (and None is left out)."""
    return Refused((Problem(path, shorten(value), reason, fix),))


def shorten(value: object, limit: int = 120) -> str:
    """`value` as text of at most `limit` characters; empty for None."""
    if value is None:
        return ""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
