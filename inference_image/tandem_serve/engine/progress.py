"""How far loading is: bytes for `/health`, lines in the log, and whoever else listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger

_LINE_EVERY_SECONDS = 5.0
# Steps that wait for somebody who has time limits of his own: the hub's client gives up by itself.
UNWATCHED_STEPS = frozenset({"download"})


class LoadProgress:
    """Counts loaded bytes; may be read and written from any thread."""

    def __init__(self, log: Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = 0
        self.loaded_bytes = 0
        self.step_name = "starting"
        self.on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._log = log
        self._clock = clock
        self._started = clock()
        self._last_line = self._started
        self._moved = self._started

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of loading; logs how long it took."""
        self.step_name = name
        self.on_change()
        begin = self._last_line = self._moved = self._clock()
        yield
        self._moved = self._clock()
        self._log.info("load step", extra={"step": name, "seconds": round(self._moved - begin, 3)})

    def add(self, nbytes: int) -> None:
        """Counts bytes that arrived, and says so now and then."""
        with self._lock:
            self.loaded_bytes += nbytes
            now = self._moved = self._clock()
            due = now - self._last_line >= _LINE_EVERY_SECONDS
            if due:
                self._last_line = now
        self.on_change()
        if due:
            self._log.info("loading weights", extra=self._figures())

    def told(self) -> dict[str, object]:
        """The step and the bytes, for `/health`."""
        return {"step": self.step_name, "loaded_bytes": self.loaded_bytes, "total_bytes": self.total_bytes}

    def _figures(self) -> dict[str, float]:
        seconds = self.seconds
        left = max(0, self.total_bytes - self.loaded_bytes)
        return {
            "loaded_bytes": self.loaded_bytes,
            "total_bytes": self.total_bytes,
            "seconds": round(seconds, 1),
            "seconds_left": round(seconds * left / max(1, self.loaded_bytes), 1),
        }

    def moved(self) -> None:
        """Something is being done that neither bytes nor steps tell."""
        self._moved = self._clock()

    @property
    def still_seconds(self) -> float:
        """Seconds since anything moved: a byte arrived, a step began or ended; 0 in a step that is not watched."""
        return 0.0 if self.step_name in UNWATCHED_STEPS else self._clock() - self._moved

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return self._clock() - self._started
