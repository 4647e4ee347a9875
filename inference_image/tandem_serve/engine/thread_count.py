"""How many threads a step runs on: as many as make steps of its size fastest now.

torch splits each layer evenly between threads, and all wait for the last, spinning. So two are faster than one while
each has a CPU of its own, and many times slower beside busy neighbours: no number is right for long. Now and then some
steps run on twice or half as many threads as usual, and the faster number stays. Pure: the caller measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

_SOON, _LATE = 8, 512
"""Steps from one trial to the next: the first, and the most; they double while trials change nothing."""
_TRIAL_STEPS = 6
_BETTER = 0.95  # of the usual time: less is a gain, more may be chance
_LOST = 2.0  # usual steps that a trial may lose
_SLOWED = 1.5  # times the time at the last trial: something has changed
_OUTLIER = 2.0  # times the usual time: a step counts as no slower, so that one alone changes nothing
_SMOOTHING = 0.15
_WEIGHTS_AS_TOKENS = 16
"""Reading the weights takes as long as computing so many tokens: measured for layers of 512 to 1,536 in bfloat16."""


@dataclass(slots=True)
class _Size:
    """Steps of about so many tokens. Times are seconds for a token, see `_WEIGHTS_AS_TOKENS`."""

    threads: int
    usual: float = 0.0
    """Smoothed; 0: not known."""
    settled: float = 0.0
    """`usual` at the last trial, or when it had last risen much; 0: there was none."""
    pause: int = _SOON
    left: int = _SOON
    """Steps before the next trial."""
    more: bool = True
    """Whether the next trial takes more threads."""
    trial: int = 0
    """Threads of the trial that runs; 0: none does."""
    tried: list[float] = field(default_factory=list)


class ThreadCount:
    """Chooses between 1, 2, 4, ... and `most` threads, for steps of each size alone: 1, 2 to 3, 4 to 7, ... tokens."""

    def __init__(self, most: int, first: Callable[[int], int]) -> None:
        """`first` says with how many to begin for a step of so many tokens, before others were tried."""
        self._most = most
        self._first = first
        self._sizes: dict[int, _Size] = {}

    def choose(self, tokens: int) -> int:
        """Threads for the next step, which computes so many tokens."""
        size = self._size(tokens)
        return size.trial or size.threads

    def took(self, tokens: int, seconds: float) -> None:
        """The step of so many tokens took so long, on the threads that were chosen."""
        size = self._size(tokens)
        cost = seconds / (tokens + _WEIGHTS_AS_TOKENS)
        if size.trial:
            size.tried.append(cost)
            if len(size.tried) == _TRIAL_STEPS or sum(size.tried) > (len(size.tried) + _LOST) * size.usual:
                _decide(size)
            return
        size.usual += _SMOOTHING * (min(cost, _OUTLIER * size.usual) - size.usual) if size.usual else cost
        size.left -= 1
        if size.settled and size.usual > _SLOWED * size.settled:
            size.settled, size.left = size.usual, min(size.left, 0)
        if size.left <= 0:
            self._try(size)

    def _size(self, tokens: int) -> _Size:
        key = tokens.bit_length()
        if key not in self._sizes:
            tried = [other for other, size in self._sizes.items() if size.settled]
            nearest = min(tried, key=lambda other: abs(other - key), default=None)
            first = self._first(tokens) if nearest is None else self._sizes[nearest].threads
            self._sizes[key] = _Size(max(1, min(self._most, first)))
        return self._sizes[key]

    def _try(self, size: _Size) -> None:
        more = size.threads == 1 or (size.more and size.threads < self._most)
        other = min(self._most, 2 * size.threads) if more else size.threads // 2
        size.left = size.pause
        if other != size.threads:
            size.trial = other


def _decide(size: _Size) -> None:
    found = sum(size.tried) / len(size.tried)
    if found < _BETTER * size.usual:
        size.more = size.trial > size.threads
        size.threads, size.usual, size.pause = size.trial, found, 2 * _SOON
    else:
        size.more = not size.more
        size.pause = min(_LATE, 2 * size.pause)
    size.settled, size.left, size.trial = size.usual, size.pause, 0
    size.tried.clear()
