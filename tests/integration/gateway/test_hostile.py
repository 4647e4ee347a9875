"""Clients that stand still: the router lets go of them, and of what it holds for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tandem.gateway.fleet import Role
from tandem_edge.heads import BoundedHeads
from tests.unit.gateway.conftest import Router
from tests.unit.gateway.workers import Seen, Worker, event, stream

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 90
Start = Callable[..., Awaitable[Any]]


async def connect(router: Router) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]), limit=1024)


async def without_end(_worker: Worker, seen: Seen) -> web.StreamResponse:
    async with stream(seen) as response:
        while True:
            await response.write(event("word " * 10_000))


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HT", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_arrive_ends_the_connection(
    start_router: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    router = await start_router()
    monkeypatch.setattr(BoundedHeads, "head_seconds", 0.2)
    reader, writer = await connect(router)
    writer.write(sent)
    try:
        assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
    except ConnectionResetError:
        pass
    finally:
        writer.close()


async def test_a_client_that_takes_nothing_of_its_stream_ends_it_at_the_worker(
    start_router: Start, start_worker: Start
) -> None:
    worker = await start_worker("w-0", Role.AGG)
    worker.handler = without_end
    router = await start_router(worker, client_seconds=0.3)
    _reader, writer = await connect(router)
    body = b'{"prompt": "x", "stream": true}'
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await worker.saw()
    await asyncio.wait_for(worker.seen[0].cancelled.wait(), PATIENCE_SECONDS)
    (line,) = await router.audited()
    assert line["outcome"] == "client_gone"
    assert await router.metric('tandem_router_in_flight{role="agg",target="w-0"}') == 0
    writer.close()


async def test_a_request_of_two_lengths_is_refused_and_its_connection_closed(start_router: Start) -> None:
    router = await start_router()
    reader, writer = await connect(router)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    writer.close()


async def test_what_a_client_is_told_of_a_worker_that_is_gone_has_no_address(
    start_router: Start, start_worker: Start
) -> None:
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker, attempts=1)
    await worker.stop()
    answer, body = await router.complete("x")
    assert answer.status == 503
    assert body["error"]["message"] == "no worker answered in 1 attempt; the last was w-0: no connection"
