"""How many threads a step runs on: all that are worth it, as long as nobody else wants their CPUs.

torch splits each layer evenly between threads, and all wait for the last, spinning. So two are faster than one while
each has a CPU of its own, and many times slower when one of them does not. Threads that spin use all of their CPUs:
when a step used less, they had to wait for some, and the next steps run on half as many. Pure: the caller measures.
"""

from __future__ import annotations

from collections.abc import Callable

_OWN = 0.8  # of the CPU time of as many CPUs: less means that others had the rest
_SHORTEST, _LONGEST = 0.1, 12.8
"""Seconds of steps from losing threads to trying with more; they double while that fails."""
_CALM = 4
"""Times the last pause without losing threads: then the next pause is the shortest again."""


class ThreadCount:
    """Chooses at most `most` threads for each step."""

    def __init__(self, most: int, worth: Callable[[int], int]) -> None:
        """`worth` says on how many threads a step of so many tokens is fastest when nobody disturbs it."""
        self._most = most
        self._worth = worth
        self._limit = most
        self._pause = _SHORTEST / 2
        self._seconds = 0.0
        """Of steps since the limit changed."""

    def choose(self, tokens: int) -> int:
        """Threads for a step that computes so many tokens."""
        return max(1, min(self._limit, self._worth(tokens)))

    def took(self, threads: int, *, seconds: float, cpu_seconds: float) -> None:
        """A step on so many threads took so long; `cpu_seconds` is what this process used meanwhile."""
        self._seconds += seconds
        if threads > 1 and cpu_seconds < _OWN * threads * seconds:
            self._change(max(1, threads // 2))
            self._pause = min(_LONGEST, 2 * self._pause)
        elif self._limit < self._most and self._seconds >= self._pause:
            self._change(min(self._most, 2 * self._limit))
        elif self._limit == self._most and self._seconds >= _CALM * self._pause:
            self._pause = _SHORTEST / 2

    def _change(self, limit: int) -> None:
        self._limit, self._seconds = limit, 0.0
