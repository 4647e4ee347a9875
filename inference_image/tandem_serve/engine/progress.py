"""How far loading is: bytes for `/health`, lines in the log, and whoever else listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger

_LINE_EVERY_SECONDS = 5.0


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

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of loading; logs how long it took."""
        self.step_name = name
        self.on_change()
        begin = self._last_line = self._clock()
        yield
        self._log.info("load step", extra={"step": name, "seconds": round(self._clock() - begin, 3)})

    def add(self, nbytes: int) -> None:
        """Counts bytes that arrived, and says so now and then."""
        with self._lock:
            self.loaded_bytes += nbytes
            now = self._clock()
            due = now - self._last_line >= _LINE_EVERY_SECONDS
            if due:
                self._last_line = now
        self.on_change()
        if due:
            self._log.info("loading weights", extra=self._figures())

    def _figures(self) -> dict[str, float]:
        seconds = self.seconds
        left = max(0, self.total_bytes - self.loaded_bytes)
        return {
            "loaded_bytes": self.loaded_bytes,
            "total_bytes": self.total_bytes,
            "seconds": round(seconds, 1),
            "seconds_left": round(seconds * left / max(1, self.loaded_bytes), 1),
        }

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return self._clock() - self._started
