"""When a process that ended is started again, after how long, and when that is given up. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """`starts` in a row may fail before the first success, `later_starts` after it.

    Before the first success only a start that failed within `quick_seconds` is tried again: the cause of one that took
    longer is rarely gone a moment later, and somebody waits to be told. Pauses (seconds) double up to a limit.
    """

    starts: int = 2
    later_starts: int = 5
    quick_seconds: float = 5.0
    first_pause: float = 0.5
    longest_pause: float = 10.0

    def gives_up(self, failures: int, *, was_ready: bool, seconds: float) -> bool:
        """Whether `failures` starts in a row without becoming ready are enough; the last one took `seconds`."""
        if was_ready:
            return failures >= self.later_starts
        return failures >= self.starts or seconds > self.quick_seconds

    def pause(self, failures: int) -> float:
        """Seconds before the next start, after `failures` (at least 1) in a row."""
        return min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
