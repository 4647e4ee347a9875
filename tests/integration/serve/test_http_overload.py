"""More than the server can take at once: each request is answered or refused, and what it holds is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.cli import bind
from tandem_serve.engine.client import QueueFullError
from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, live_server

pytestmark = pytest.mark.integration

LARGE = 190_000
FULL = 6
"""So many of them fill the room for four of the largest: the first 64 KiB of each are free."""


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    """Takes bodies of 200 kB, four at once."""
    async with live_server(tiny.settings(Path("x"), max_body_bytes=200_000), llama) as live:
        yield live


def body(nbytes: int) -> bytes:
    return json.dumps({"prompt": "a", "max_tokens": 1, "unknown": "x" * (nbytes - 60)}).encode()


@contextlib.asynccontextmanager
async def half_sent(server: LiveServer, *, chunked: bool) -> AsyncIterator[None]:
    """A large body that does not go on."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    if chunked:
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + f"{LARGE:x}\r\n".encode() + b" " * LARGE + b"\r\n")
    else:
        writer.write(head + f"Content-Length: {LARGE}\r\n\r\n".encode())
    await writer.drain()
    try:
        yield
    finally:
        writer.transport.abort()


async def post(server: LiveServer, nbytes: int) -> int:
    headers = {"content-type": "application/json"}
    return (await server.request("POST", "/v1/completions", data=body(nbytes), headers=headers)).status


async def until(server: LiveServer, nbytes: int, status: int) -> None:
    async with asyncio.timeout(60):
        while await post(server, nbytes) != status:  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_in_memory_are_bounded_and_small_ones_pass(server: LiveServer, chunked: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(FULL):
            await stack.enter_async_context(half_sent(server, chunked=chunked))
        await until(server, LARGE, 429)
        assert await post(server, 30_000) == 200
    await until(server, LARGE, 200)


async def test_a_refused_body_says_when_to_come_again(server: LiveServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(FULL):
            await stack.enter_async_context(half_sent(server, chunked=False))
        await until(server, LARGE, 429)
        answer = await server.request("POST", "/v1/completions", data=body(LARGE))
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "too_many_large_bodies", "1")


@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/tokenize"])
async def test_a_text_beyond_any_context_is_refused_unread(llama: LoadedModel, path: str) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        answer = await server.post(path, {"prompt": "a" * 1_000_001})
        assert (answer.status, answer.error["code"]) == (413, "context_length_exceeded")
        assert "1000001 characters" in answer.error["message"]


async def test_so_is_a_long_conversation_and_a_long_list_of_tokens(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        messages = [{"role": "user", "content": "a" * 600_000}] * 2
        assert (await server.post("/v1/chat/completions", {"messages": messages})).status == 413
        messages = [{"role": "user", "content": ""}] * 10_001
        answer = await server.post("/v1/chat/completions", {"messages": messages})
        assert (answer.status, answer.error["param"]) == (413, "messages")
        assert (await server.post("/detokenize", {"tokens": [5] * 20_001})).status == 413


async def test_every_sequence_of_a_request_counts_in_the_queue(llama: LoadedModel) -> None:
    settings = tiny.settings(Path("x"), max_num_seqs=2, generation={"MAX_QUEUE": 2})
    async with live_server(settings, replace(llama, eos_ids=frozenset())) as server:
        answers = await asyncio.gather(*(server.complete("a", n=2, max_tokens=100) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429]
        refused = next(answer for answer in answers if answer.status == 429)
        assert (refused.error["type"], refused.error["code"]) == ("rate_limit_error", "queue_full")
        assert await server.metric('tandem_requests_refused_total{reason="queue_full"}') == 2


def test_a_client_that_vanishes_without_a_word_is_noticed_by_the_kernel() -> None:
    settings = tiny.settings(Path("x"))
    with bind(settings) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, every, count, unsent = (
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
    assert idle + every * count <= 60
    assert unsent <= 60_000


MANY_FILES = """
import resource
from tandem_serve import cli
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
cli._allow_many_connections()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_a_low_soft_limit_of_open_files_is_raised() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = subprocess.run([sys.executable, "-c", MANY_FILES], capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


async def test_when_the_queue_is_full_a_body_is_not_even_parsed(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:

        def full(_sequences: int) -> None:
            raise QueueFullError

        monkeypatch.setattr(server.running.backend.client, "check_room", full)
        for path in ("/v1/completions", "/v1/chat/completions", "/generate"):
            answer = await server.request("POST", path, data=b"not JSON", headers={"content-type": "application/json"})
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "queue_full", "1")
        assert (await server.post("/tokenize", {"prompt": "a"})).status == 200


async def test_small_values_without_number_are_refused(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        answer = await server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "unknown": [{}] * 200_000})
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert (await server.complete("[{" * 400, max_tokens=1)).status == 200
