"""Log lines on stderr: JSON in pods, text on a terminal. What is logged never holds prompt text or tokens of a hub.

An error in what reads requests may quote them. Of those only the kind and the place are written, not their words.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Literal, TextIO

from tandem_edge.lines import JsonFormatter, fields_of

LogFormat = Literal["json", "text"]
_QUOTES = ("tandem_serve.http", "uvicorn", "asyncio", "concurrent")
"""Loggers whose errors may quote a request."""
_MOST_CAUSES = 8


def _traceback(record: logging.LogRecord) -> str | None:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return None
    if record.name.startswith(_QUOTES):
        return _places(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _places(error: BaseException) -> str:
    """Kind and place of an error and of those that led to it, without what they say."""
    parts: list[str] = []
    one: BaseException | None = error
    while one is not None and len(parts) < _MOST_CAUSES:
        parts.append("".join(traceback.format_tb(one.__traceback__)) + type(one).__qualname__)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\nwhich led to\n".join(reversed(parts))


class _JsonFormatter(JsonFormatter):
    def trace(self, record: logging.LogRecord) -> str | None:
        return _traceback(record)


def _one_line(value: object) -> str:
    """Nobody's text can look like a line of its own."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class TextFormatter(logging.Formatter):
    """Time, level, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        fields = "".join(f" {key}={_one_line(value)}" for key, value in fields_of(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        if (trace := _traceback(record)) is not None:
            line += "\n" + trace
        return line


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that time: a progress bar puts itself in between."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current stderr."""
        return sys.stderr


def setup(*, log_format: LogFormat | None, level: str) -> None:
    """Sends all log lines to stderr. Without a format: text on a terminal, JSON elsewhere."""
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if chosen == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)
    logging.getLogger("uvicorn.access").propagate = False  # the edge writes its own line per request
    for ours in ("tandem_serve", "tandem_edge"):
        logging.getLogger(ours).setLevel(level.upper())


def last_words(message: str) -> None:
    """Says why the process ends: as a log line where lines are JSON, else as it is."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        logging.getLogger("tandem_serve").critical(message)
    else:
        print(message, file=sys.stderr, flush=True)


def through_our_handler(name: str) -> None:
    """A library that brings handlers of its own writes its lines like all others."""
    log = logging.getLogger(name)
    log.handlers[:] = []
    log.propagate = True


def _log_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        logging.getLogger("tandem_serve").critical("crashed", exc_info=(kind, error, trace))
