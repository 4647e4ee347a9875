"""One JSON line per request: who served it, how often it was tried, how long it took. Never prompts or answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Protocol

from tandem.gateway.call import Record


class Audit(Protocol):
    """Where finished requests are noted."""

    def write(self, record: Record, *, now: float) -> None:
        """Notes one; `now` is on the clock of `Record.started`."""


class JsonAudit:
    """Writes a line of JSON per request with `emit`; `stamp` gives the time of day as text."""

    def __init__(self, emit: Callable[[str], object], stamp: Callable[[], str]) -> None:
        self._emit = emit
        self._stamp = stamp

    def write(self, record: Record, *, now: float) -> None:
        """Emits the line."""
        line = {"ts": self._stamp(), "log": "request", **record.line(now=now)}
        self._emit(json.dumps(line, separators=(",", ":")) + "\n")


class JsonFormatter(logging.Formatter):
    """Every other log line, in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as one line of JSON; a traceback goes into it as text."""
        line = {
            "ts": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "log": record.name,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
