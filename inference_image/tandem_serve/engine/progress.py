"""How far loading is: bytes for `/health`, a bar on a terminal, lines in a log."""

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
        self._lock = threading.Lock()
        self._log = log
        self._clock = clock
        self._started = clock()
        self._last_line = self._started

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of loading; logs how long it took."""
        self.step_name = name
        begin = self._clock()
        yield
        self._log.info("load step", extra={"step": name, "seconds": round(self._clock() - begin, 3)})

    def add(self, nbytes: int) -> None:
        """Counts bytes that arrived, and says so now and then."""
        with self._lock:
            self.loaded_bytes += nbytes
            now = self._clock()
            if now - self._last_line < _LINE_EVERY_SECONDS:
                return
            self._last_line = now
            loaded, total, seconds = self.loaded_bytes, self.total_bytes, now - self._started
        self._log.info(
            "loading weights",
            extra={"loaded_bytes": loaded, "total_bytes": total, "seconds": round(seconds, 1)},
        )

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return self._clock() - self._started
