"""Located errors: what a person gets when a flag, a file or a checkpoint is wrong."""

from __future__ import annotations

from dataclasses import dataclass

EXIT_USAGE = 2
"""Exit code for a wrong flag, config file or port."""
EXIT_LOAD = 1
"""Exit code for a model that cannot be loaded or served."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: where, what was found, why that cannot work, what to do."""

    path: str
    value: str | None = None
    reason: str
    fix: str

    def __str__(self) -> str:
        found = "" if self.value is None else f" = {self.value}"
        return f"{self.path}{found}: {self.reason}. Fix: {self.fix}"


class StartError(Exception):
    """The server cannot start, or cannot go on; `problems` says why and `exit_code` is what the process ends with."""

    def __init__(self, problems: tuple[Problem, ...], *, exit_code: int) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
        self.exit_code = exit_code


def usage_error(path: str, *, value: str | None = None, reason: str, fix: str) -> StartError:
    """A wrong flag, config value or port (exit code 2)."""
    return StartError((Problem(path=path, value=value, reason=reason, fix=fix),), exit_code=EXIT_USAGE)


def load_error(path: str, *, value: str | None = None, reason: str, fix: str) -> StartError:
    """A model that cannot be loaded (exit code 1)."""
    return StartError((Problem(path=path, value=value, reason=reason, fix=fix),), exit_code=EXIT_LOAD)
