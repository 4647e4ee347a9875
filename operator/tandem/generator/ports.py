"""Ports for the processes of one machine, each given once."""

from __future__ import annotations

from tandem.api.problems import refuse

_LAST = 65_535


class Ports:
    """Hands out ports; one that was given before is passed over."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, first: int, *, key: str, count: int = 1) -> int:
        """The first of `count` free ports in a row, at or above `first`, the value of the input `key`."""
        if not 1 <= first <= _LAST:
            raise refuse(key, first, "a port is a number from 1 to 65535", "Correct it.")
        start = first
        while start + count - 1 <= _LAST:
            wanted = range(start, start + count)
            clash = next((port for port in reversed(wanted) if port in self._taken), None)
            if clash is None:
                self._taken.update(wanted)
                return start
            start = clash + 1
        raise refuse(key, first, "there are not enough ports above it", "Use a smaller one.")
