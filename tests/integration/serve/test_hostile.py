"""Clients that mean harm, or are broken: each gets a short, right answer, and the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from tandem_edge.heads import BoundedHeads
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.text import RESERVED
from tandem_serve.http.edge import BodyMemory, Edge, EdgeRules
from tests.unit.serve import tiny
from tests.unit.serve.live import Answer, LiveServer, live_server

pytestmark = pytest.mark.integration

JSON = {"content-type": "application/json"}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HALF = "\\ud800"
"""Half of a surrogate pair, as JSON can escape it."""


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), llama) as running:
        yield running


@pytest.fixture
async def impatient(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    """A server that waits a fifth of a second for a client."""
    async with live_server(tiny.settings(Path("x"), client_seconds=0.2), llama) as server:
        yield server


async def send(server: LiveServer, path: str, body: bytes | str) -> Answer:
    return await server.request("POST", path, data=body, headers=JSON)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": ',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}",
    ],
    ids=["cut", "not UTF-8", "deep lists", "deep objects", "5000 digits"],
)
async def test_what_is_not_json_is_a_400_that_says_so(server: LiveServer, body: bytes) -> None:
    answer = await send(server, COMPLETIONS, body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, f'{{"prompt": "{HALF}"}}', "prompt"),
        (COMPLETIONS, f'{{"prompt": "a", "model": "{HALF}"}}', "model"),
        (COMPLETIONS, f'{{"prompt": "a", "stop": "{HALF}"}}', "stop"),
        (CHAT, f'{{"messages": [{{"role": "user", "content": "{HALF}"}}]}}', "messages[0].content"),
        ("/tokenize", f'{{"prompt": "{HALF}"}}', "prompt"),
    ],
)
async def test_half_a_character_is_refused(server: LiveServer, path: str, body: str, param: str) -> None:
    answer = await send(server, path, body)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": [1.5] * 300_000}),
        (COMPLETIONS, {"prompt": ["a"] * 300_000}),
        (COMPLETIONS, {"prompt": "a", "stop": [1] * 300_000}),
        (COMPLETIONS, {"prompt": "a", "stop_token_ids": [1.5] * 300_000}),
        (CHAT, {"messages": [{}] * 190_000}),
        (CHAT, {"messages": [{"role": "user", "content": [1] * 300_000}]}),
        ("/detokenize", {"tokens": [1.5] * 300_000}),
    ],
)
async def test_a_long_list_of_wrong_items_costs_no_more_than_a_short_one(
    server: LiveServer, path: str, body: dict[str, object]
) -> None:
    text = json.dumps(body)
    began = time.process_time()
    answer = await send(server, path, text)
    # An error per item took seconds for these, and gigabytes for lists as long as a body may be.
    assert time.process_time() - began < 1.5
    assert answer.status == 400
    assert len(answer.body) < 1000


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-9])
async def test_a_temperature_next_to_nothing_is_greedy(server: LiveServer, temperature: float) -> None:
    greedy = await server.complete("Hello", max_tokens=4)
    answer = await server.complete("Hello", max_tokens=4, temperature=temperature)
    assert (answer.status, answer.text) == (200, greedy.text)


@pytest.mark.parametrize("token", [-1, 10**9, 10**30])
async def test_an_end_token_that_the_model_does_not_have_is_refused(server: LiveServer, token: int) -> None:
    answer = await server.complete("Hello", stop_token_ids=[token], min_tokens=1, max_tokens=2)
    assert (answer.status, answer.error["param"]) == (400, "stop_token_ids")


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "tools", "messages", "self"])
async def test_a_request_brings_no_template_of_its_own(server: LiveServer, name: str) -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    messages = [{"role": "user", "content": "x"}]
    answer = await server.post(CHAT, {"messages": messages, "chat_template_kwargs": {name: endless}})
    assert (answer.status, answer.error["param"]) == (400, f"chat_template_kwargs.{name}")


def test_every_parameter_of_the_template_function_is_reserved() -> None:
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD} <= RESERVED


async def _raw(server: LiveServer, *parts: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.writelines(parts)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_client_that_closes_its_side_counts_as_gone(server: LiveServer) -> None:
    body = b'{"prompt": "a", "max_tokens": 400, "ignore_eos": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head % len(body) + body)
    writer.write_eof()
    async with asyncio.timeout(90):
        assert await reader.read() == b""
    writer.close()
    assert (await server.complete("a", max_tokens=1)).status == 200


async def test_a_body_that_does_not_arrive_is_a_408(impatient: LiveServer) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    answer = await _raw(impatient, head, b'{"prompt"')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "body_timeout"' in answer


async def test_a_request_of_two_lengths_is_refused_and_its_connection_closed(server: LiveServer) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await _raw(server, head, b"0\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("start", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_arrive_ends_the_connection(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_seconds", 0.1)
    with contextlib.suppress(ConnectionResetError):  # as good
        assert await _raw(server, start) == b""


async def test_a_slow_answer_is_not_taken_for_a_slow_head(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHeads, "head_seconds", 0.05)
    for _ in range(2):  # on one connection
        answer = await server.complete("Hello", max_tokens=100, ignore_eos=True)
        assert answer.status == 200


async def test_a_client_that_takes_nothing_of_its_answer_is_left() -> None:
    answered: list[tuple[str, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"more than fits", "more_body": True})
        raise AssertionError("it was never taken")

    async def stands_still(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def nothing() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    rules = EdgeRules(max_body=1, patience=0.05, bodies=BodyMemory(0))
    edge = Edge(app, rules, route_of=lambda _: "other", on_answer=lambda path, status: answered.append((path, status)))
    async with asyncio.timeout(10):
        await edge({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, stands_still)
    assert answered == [("other", 200)]
