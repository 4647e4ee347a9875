"""A work queue of keys with the semantics of client-go's: no key twice, one worker per key, back-off per key."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tandem.kube.clock import Clock, Timer

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays after failures in a row: `base` doubled each time up to `longest`, shortened at random by `jitter`."""

    base: float = 0.1
    longest: float = 60.0
    jitter: float = 0.2

    def delay(self, failures: int, chance: float) -> float:
        """Seconds after the `failures`-th failure; `chance` in [0, 1) picks within the jitter."""
        grown = self.base * 2.0 ** min(failures - 1, 32)
        return min(grown, self.longest) * (1.0 - self.jitter * chance)


class WorkQueue(Generic[K]):
    """Keys waiting for work. A key added while it is being worked on is handed out again after `done`.

    Not thread-safe: for one event loop.
    """

    def __init__(
        self, clock: Clock, *, backoff: Backoff | None = None, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._ready: deque[K] = deque()
        self._waiting_since: dict[K, float] = {}
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._delayed: dict[K, tuple[float, Timer]] = {}
        self._getters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting_since)

    @property
    def busy(self) -> int:
        """Keys that are being worked on."""
        return len(self._busy)

    @property
    def oldest_age(self) -> float:
        """Seconds that the longest waiting key has waited; 0 when none waits."""
        if not self._waiting_since:
            return 0.0
        return self._clock.monotonic() - next(iter(self._waiting_since.values()))

    def add(self, key: K) -> None:
        """Asks for `key` to be worked on, once, however often it is added before that."""
        if key in self._waiting_since:
            return
        self._waiting_since[key] = self._clock.monotonic()
        if key not in self._busy:
            self._hand_out(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Adds `key` in `seconds`; of several wishes the earliest counts."""
        due = self._clock.monotonic() + seconds
        if key in self._delayed:
            earlier, timer = self._delayed[key]
            if earlier <= due:
                return
            timer.cancel()
        self._delayed[key] = (due, self._clock.call_later(seconds, lambda: self._fire(key)))

    def add_failed(self, key: K, *, at_least: float = 0.0) -> float:
        """Adds `key` after its back-off, which grows with each failure in a row; returns the seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        seconds = max(self._backoff.delay(self._failures[key], self._chance()), at_least)
        self.add_after(key, seconds)
        return seconds

    def succeeded(self, key: K) -> None:
        """Ends the row of failures of `key`."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Drops all that is remembered of `key` and its delayed additions: it is gone."""
        self._failures.pop(key, None)
        _, timer = self._delayed.pop(key, (0.0, None))
        if timer is not None:
            timer.cancel()

    async def get(self) -> K:
        """The key that waited longest; it is busy until `done`."""
        while not self._ready:
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # Woken and cancelled at once: let another getter have the key.
                if getter.done() and not getter.cancelled():
                    self._wake_one()
                raise
        key = self._ready.popleft()
        del self._waiting_since[key]
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """Ends the work on `key`; if it was added meanwhile, it waits again."""
        self._busy.discard(key)
        if key in self._waiting_since:
            self._hand_out(key)

    def _fire(self, key: K) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def _hand_out(self, key: K) -> None:
        self._ready.append(key)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
