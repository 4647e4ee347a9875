"""Serving, then draining, then stopping: what the router's probes say, and which requests still run."""

from __future__ import annotations

import asyncio
from enum import Enum, auto


class Phase(Enum):
    """Where the router is in its life."""

    SERVING = auto()
    DRAINING = auto()  # not ready any more; requests are still taken, connections close after their answer
    STOPPING = auto()  # what still runs is ended with an error


class Lifecycle:
    """The phase, and the requests under way."""

    def __init__(self) -> None:
        self.phase = Phase.SERVING
        # Set by a defect that only a restart can mend.
        self.broken: str | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return len(self._running)

    @property
    def closing(self) -> bool:
        """Whether a connection is to be closed after its answer."""
        return self.phase is not Phase.SERVING

    @property
    def stopping(self) -> bool:
        """Whether unfinished requests are being ended."""
        return self.phase is Phase.STOPPING

    def track(self, work: asyncio.Task[None]) -> None:
        """Notes a request under way until its task is done."""
        self._running.add(work)
        work.add_done_callback(self._running.discard)

    def drain(self) -> None:
        """Asks others to send no more requests."""
        if self.phase is Phase.SERVING:
            self.phase = Phase.DRAINING

    def stop(self) -> None:
        """Ends every request under way."""
        self.phase = Phase.STOPPING
        for work in self._running:
            work.cancel()
