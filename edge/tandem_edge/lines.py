"""Log lines as JSON, in one form for operator, router and bundled server: time, level, logger, message, then fields."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    *("message", "asctime", "taskName"),
    "color_message",  # uvicorn's message once more, for terminals
}


def time_of(seconds: float) -> str:
    """A time of day, in seconds since 1970, as lines have it: in UTC, `2026-01-31T08:00:00.123Z`."""
    thousandths = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(thousandths // 1000)) + f".{thousandths % 1000:03d}Z"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line was given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "time": time_of(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= self.fields(record)
        if (trace := self.trace(record)) is not None:
            line["exception"] = trace
        return json.dumps(line, default=str, ensure_ascii=False)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a line, after the first four."""
        return fields_of(record)

    def trace(self, record: logging.LogRecord) -> str | None:
        """The error of a line with its traceback, when it has one."""
        return self.formatException(record.exc_info) if record.exc_info else None
