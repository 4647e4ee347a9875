"""Server-sent events as bytes: where one ends, without looking into it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

_ENDS = (b"\n\n", b"\r\n\r\n")
_LONGEST_ERROR = 65536
LONGEST_EVENT = 4 * 2**20
# For workers whose `code` is a word.
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "unavailable_error": 503,
    "timeout_error": 504,
}


class EventTooLong(Exception):
    """An event without an end: it must not fill the memory."""


class EventSplitter:
    """Passes on whole events and holds back the beginning of one: so a cut stream can still end in a clean event."""

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, chunk: bytes) -> bytes:
        """The events completed by `chunk`, as they came; what is left over waits for the next chunk.

        Raises EventTooLong when that is more than `LONGEST_EVENT` bytes.
        """
        data = self.pending + chunk if self.pending else chunk
        if data.endswith(_ENDS):
            self.pending = b""
            return data
        end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _ENDS)
        self.pending = data[end:]
        if len(self.pending) > LONGEST_EVENT:
            raise EventTooLong(f"an event is larger than {LONGEST_EVENT} bytes")
        return data[:end]


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An error that a worker put into a stream: what its status would have been, and the JSON."""

    status: int
    content: bytes


def is_comment_only(events: bytes) -> bool:
    """Whether there is no event among these lines, only comments (`: ping`) or nothing."""
    return all(not line or line.startswith(b":") for line in events.splitlines())


def error_of(first: bytes) -> ErrorEvent | None:
    """The error when a stream begins with one: vLLM answers 200 before it knows, and reports so what failed then."""
    line = next((line for line in first.splitlines() if line and not line.startswith(b":")), b"")
    if not line.startswith(b"data:") or b'"error"' not in line[:32] or len(line) > _LONGEST_ERROR:
        return None
    content = line[len(b"data:") :].strip()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else _STATUS_OF_TYPE.get(str(error.get("type")), 500)
    return ErrorEvent(status=status, content=content)


def value_of(first: bytes) -> object:
    """The JSON of the first event; None when it is none."""
    line = next((line for line in first.splitlines() if line.startswith(b"data:")), b"data:")
    try:
        return json.loads(line[len(b"data:") :])
    except (ValueError, RecursionError):
        return None


def is_finished(last: bytes) -> bool:
    """Whether a completion stream that ends in these bytes came to its end: `[DONE]`, or an error it told of itself."""
    events = last.strip().splitlines()
    return bool(events) and (events[-1].rstrip().endswith(b"[DONE]") or events[-1].startswith(b'data: {"error"'))
