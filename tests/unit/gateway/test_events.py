"""Where a server-sent event ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.gateway.events import EventSplitter, error_of, is_comment_only, is_finished

lines = st.sampled_from([b"data: x", b": c", b"event: e", b"data: \xe2\x82\xac"])
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"])), max_size=8).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@settings(deadline=None)
@given(streams, st.lists(st.integers(0, 60), max_size=8))
def test_nothing_is_lost_or_altered_and_what_is_passed_on_ends_with_an_event(whole, cuts):
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    splitter = EventSplitter()
    passed = [splitter.feed(whole[start:end]) for start, end in itertools.pairwise(edges) if start < end]
    assert b"".join(passed) + splitter.pending == whole
    assert all(part.endswith((b"\n\n", b"\r\n\r\n")) for part in passed if part)
    assert b"\n\n" not in splitter.pending
    assert b"\r\n\r\n" not in splitter.pending


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b'data: {"error": {"message": "x", "code": 400}}\n\n', 400),
        (b'data: {"error":{"message":"x","code":"bad"}}\n\n', 500),
        (b'data:{"error":{"message":"x"}}\n\n', 500),
        (b'data: {"error": {"type": "rate_limit_error", "code": "queue_full"}}\n\n', 429),
        (b': ping\n\ndata: {"error": {"code": 429}}\n\n', 429),
        (b'data: {"error": {"code": 200}}\n\n', 500),
        (b'data: {"error": null, "choices": []}\n\n', None),
        (b'data: {"choices": [{"text": "{\\"error\\": 1}"}]}\n\n', None),
        (b'data: {"error": \n\n', None),
        (b"data: [DONE]\n\n", None),
        (b'data: {"error":' + b"[" * 60_000 + b"\n\n", None),
    ],
)
def test_an_error_at_the_beginning_is_recognised(first, status):
    found = error_of(first)
    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    ("data", "only"), [(b"", True), (b": ping\n\n", True), (b"\n\n", True), (b": a\n\ndata: b\n\n", False)]
)
def test_comments_are_not_events(data, only):
    assert is_comment_only(data) is only


@pytest.mark.parametrize(
    ("last", "finished"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data: {}\n\ndata: [DONE]\r\n\r\n", True),
        (b'data: {"error": {"message": "x"}}\n\n', True),
        (b'data: {"choices": []}\n\n', False),
        (b'data: {"text": "[DONE]"}\n\n', False),
        (b"", False),
    ],
)
def test_the_end_of_a_completion_stream_is_recognised(last, finished):
    assert is_finished(last) is finished
