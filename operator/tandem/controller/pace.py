"""What others keep undoing is done again ever more rarely: two that never yield would write without end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Done again at once this often; after that each time waits twice as long as the one before.
FREE = 5
LONGEST_SECONDS = 60.0
FORGOTTEN_AFTER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Known:
    aim: Hashable
    count: int
    at: float


class Pace(Generic[K]):
    """How often each of several things has been done again, and when it is due next. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[K, _Known] = {}

    def wait(self, key: K, aim: Hashable, now: float) -> float:
        """Seconds until `key` may be brought to `aim` again; 0 means now, and counts. Another aim begins anew."""
        known = self._known.get(key)
        if known is None or known.aim != aim or now - known.at > FORGOTTEN_AFTER_SECONDS:
            known = _Known(aim, 0, now)
        pause = min(2.0 ** (known.count - FREE), LONGEST_SECONDS) if known.count >= FREE else 0.0
        if now < known.at + pause:
            return known.at + pause - now
        self._known[key] = _Known(aim, known.count + 1, now)
        return 0.0

    def contested(self, key: K, now: float) -> float:
        """Seconds until the fight over `key` counts as over; 0 when there is none."""
        known = self._known.get(key)
        if known is None or known.count <= FREE:
            return 0.0
        return max(0.0, known.at + FORGOTTEN_AFTER_SECONDS - now)

    def forget(self, key: K) -> None:
        """Drops what is remembered of `key`."""
        self._known.pop(key, None)
