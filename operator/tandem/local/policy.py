"""When a process that ended is started again, after how long, and when that is given up. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """`starts` in a row may fail before the first success, `later_starts` after it.

    Pauses (seconds) double up to a limit.
    """

    starts: int = 2
    later_starts: int = 5
    first_pause: float = 0.5
    longest_pause: float = 10.0

    def gives_up(self, failures: int, *, was_ready: bool, timed_out: bool) -> bool:
        """Whether `failures` starts in a row without becoming ready are enough.

        Before the first success a start that ran out of time is not repeated: the time was the probe's own.
        """
        if timed_out and not was_ready:
            return True
        return failures >= (self.later_starts if was_ready else self.starts)

    def pause(self, failures: int) -> float:
        """Seconds before the next start, after `failures` (at least 1) in a row."""
        return min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
