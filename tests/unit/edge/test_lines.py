"""Log lines as operator, router and bundled server write them."""

from __future__ import annotations

import json
import logging
import sys

from tandem_edge.lines import JsonFormatter, time_of


def test_a_time_has_milliseconds_and_its_zone() -> None:
    assert time_of(0) == "1970-01-01T00:00:00.000Z"
    assert time_of(1_769_846_400.1239) == "2026-01-31T08:00:00.123Z"


def test_a_line_has_time_level_logger_message_its_fields_and_the_error() -> None:
    try:
        raise ValueError("é")
    except ValueError:
        record = logging.LogRecord("tandem.x", logging.ERROR, "x.py", 1, "%s broke", ("it",), sys.exc_info())
    record.created, record.request_id = 1.5, "r1"
    line = json.loads(JsonFormatter().format(record))
    assert list(line) == ["time", "level", "logger", "message", "request_id", "exception"]
    assert [line[key] for key in ("time", "level", "logger", "message", "request_id")] == [
        "1970-01-01T00:00:01.500Z", "error", "tandem.x", "it broke", "r1",
    ]  # fmt: skip
    assert line["exception"].endswith("ValueError: é")
