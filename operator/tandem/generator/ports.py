"""Ports for the processes of machines, each given once per machine."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.api.problems import refuse

_LAST = 65_535


class Ports:
    """Hands out the ports of one machine; one that was given before is passed over."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, first: int, *, key: str, count: int = 1) -> int:
        """The first of `count` free ports in a row, at or above `first`, the value of the input `key`."""
        return take_on_all([self], first, key=key, count=count)

    def last_taken(self, wanted: range) -> int | None:
        """The highest of the `wanted` ports that was given before."""
        return next((port for port in reversed(wanted) if port in self._taken), None)

    def give(self, wanted: range) -> None:
        """Notes that these ports are given."""
        self._taken.update(wanted)


def take_on_all(machines: Sequence[Ports], first: int, *, key: str, count: int = 1) -> int:
    """The same for several machines: ports that are free on all of them."""
    if not 1 <= first <= _LAST:
        raise refuse(key, first, "a port is a number from 1 to 65535", "Correct it.")
    start = first
    while start + count - 1 <= _LAST:
        wanted = range(start, start + count)
        clash = max((port for each in machines if (port := each.last_taken(wanted)) is not None), default=None)
        if clash is None:
            for each in machines:
                each.give(wanted)
            return start
        start = clash + 1
    raise refuse(key, first, "there are not enough ports above it", "Use a smaller one.")
