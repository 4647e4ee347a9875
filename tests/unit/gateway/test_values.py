"""Small values: fleets, bodies, prefixes, pauses of the API."""

from __future__ import annotations

import pytest

from tandem.gateway.body import RequestBody, parse
from tandem.gateway.errors import HttpError
from tandem.gateway.fleet import Endpoint, Fleet, FleetView, Role
from tandem.gateway.prefix import PREFIX_BYTES, prefix_of


def made(name, role=Role.AGG, *, ready=True, revision="r", address="h"):
    return Endpoint(name, address, 1, role, revision, ready)


def test_equal_knowledge_is_an_equal_fleet_and_no_news():
    view = FleetView()
    heard = []
    view.subscribe(lambda before, after: heard.append((len(before.endpoints), len(after.endpoints))))
    view.publish(Fleet.of([made("a"), made("b")]))
    view.publish(Fleet.of([made("b"), made("a")]))
    view.publish(Fleet.of([made("b"), made("a", ready=False)]))
    assert heard == [(0, 2), (2, 2)]


def test_a_fleet_counts_by_role_and_revision():
    fleet = Fleet.of(
        [
            made("a", Role.PREFILL, revision="1"),
            made("b", Role.PREFILL, revision="2", ready=False),
            made("c", Role.DECODE, revision="1"),
            made("d", Role.DECODE, revision="1", ready=False),
        ]
    )
    assert fleet.describe() == "decode 1: 1/2, prefill 1: 1/1, prefill 2: 0/1"
    assert [endpoint.name for endpoint in fleet.ready(Role.DECODE)] == ["c"]
    assert Fleet().describe() == "no worker is known"


def test_a_pod_that_returns_at_another_address_is_another_worker():
    assert made("a", address="10.0.0.1").identity != made("a", address="10.0.0.2").identity
    assert made("a", address="fd00::1").url == "http://[fd00::1]:1"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": Infinity}', "Infinity"),
        (b"\xff\xfe{\x00}\x00", "UTF-8 at byte 0"),
        (b"null", "not a JSON object"),
    ],
)
def test_bodies_that_are_no_json_objects_are_refused_with_a_reason(raw, words):
    with pytest.raises(HttpError) as refused:
        parse(raw)
    assert refused.value.status == 400
    assert words in refused.value.message


def test_a_body_is_rewritten_only_when_something_is_taken_out():
    untouched = parse(b'{ "a":1.0 }')
    assert (untouched.raw, untouched.stripped) == (b'{ "a":1.0 }', ())
    hidden = parse(b'{"a": 1, "kv_transfer_p\\u0061rams": {}}')
    assert (hidden.raw, hidden.stripped) == (b'{"a":1}', ("kv_transfer_params",))


@pytest.mark.parametrize(
    ("stream", "streams"), [(True, True), (False, False), (None, False), ("true", False), (1, False)]
)
def test_only_true_asks_for_a_stream(stream, streams):
    assert parse(b"{}").streams is False
    assert RequestBody(b"", {"stream": stream}).streams is streams


@pytest.mark.parametrize(
    ("body", "prefix"),
    [
        ({"prompt": "abc"}, b"abc"),
        ({"prompt": "é" * 2000}, ("é" * (PREFIX_BYTES // 2)).encode()),
        ({"prompt": [1, 2]}, b"[1,2]"),
        ({"messages": [{"role": "user"}]}, b'{"role":"user"}'),
        ({"messages": "odd"}, b""),
        ({}, b""),
        ({"prompt": 5}, b""),
    ],
)
def test_the_prefix_is_the_beginning_of_the_prompt(body, prefix):
    assert prefix_of(body) == prefix


def test_the_turns_of_one_chat_share_a_prefix():
    system = {"role": "system", "content": "x" * 2000}
    first = {"messages": [system, {"role": "user", "content": "a"}]}
    second = {"messages": [system, {"role": "user", "content": "b"}]}
    assert prefix_of(first) == prefix_of(second) != b""
