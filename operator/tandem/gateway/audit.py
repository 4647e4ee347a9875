"""One JSON line per request: who served it, how often it was tried, how long it took. Never prompts or answers.

Its first fields are those of all log lines: see `tandem_edge.lines`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from tandem.gateway.call import Record

LOGGER = "tandem.gateway.request"


class Audit(Protocol):
    """Where finished requests are noted."""

    def write(self, record: Record, *, now: float) -> None:
        """Notes one; `now` is on the clock of `Record.started`."""


class JsonAudit:
    """Writes a line of JSON per request with `emit`; `stamp` gives the time as lines have it."""

    def __init__(self, emit: Callable[[str], object], stamp: Callable[[], str]) -> None:
        self._emit = emit
        self._stamp = stamp

    def write(self, record: Record, *, now: float) -> None:
        """Emits the line."""
        line = {"time": self._stamp(), "level": "info", "logger": LOGGER, "message": "request", **record.line(now=now)}
        self._emit(json.dumps(line, separators=(",", ":")) + "\n")
