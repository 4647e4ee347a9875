"""A client that goes away takes its requests at the workers with it, whatever they were doing."""

from __future__ import annotations

import asyncio

import pytest

from tandem.gateway.fleet import Role
from tests.unit.gateway.workers import event, hang, stream_then_hang


async def hang_up(router, seen_at, *, stream: bool):
    """Sends a completion, closes the connection once a worker has it, and waits until that worker sees it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]))
    body = b'{"prompt": "x", "stream": %s}' % (b"true" if stream else b"false")
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await seen_at.saw()
    if stream and seen_at.role is not Role.PREFILL:
        await asyncio.wait_for(reader.readuntil(b"one"), 5)
    writer.close()
    await asyncio.wait_for(seen_at.seen[0].cancelled.wait(), 5)
    [line] = await router.audited()
    assert line["outcome"] == "client_gone"
    assert len(line["tries"]) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_workers_request_ends_when_the_client_hangs_up(start_router, start_worker, stream):
    worker = await start_worker("w-0", Role.AGG)
    worker.handler = stream_then_hang(event("one")) if stream else hang
    router = await start_router(worker)
    await hang_up(router, worker, stream=stream)
    assert await router.metric('tandem_router_in_flight{role="agg",target="w-0"}') == 0


async def test_the_prefill_leg_ends_when_the_client_hangs_up(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    duo.prefills[0].handler = hang
    await hang_up(duo.router, duo.prefills[0], stream=True)
    assert duo.decodes[0].seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_decode_leg_ends_when_the_client_hangs_up(start_duo, stream):
    duo = await start_duo(prefills=1, decodes=1)
    duo.decodes[0].handler = stream_then_hang(event("one")) if stream else hang
    await hang_up(duo.router, duo.decodes[0], stream=stream)
    for name, role in (("p-0", "prefill"), ("d-0", "decode")):
        assert await duo.router.metric(f'tandem_router_in_flight{{role="{role}",target="{name}"}}') == 0


async def test_kv_that_nobody_pulled_is_given_back_when_the_client_hangs_up(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    duo.decodes[0].handler = hang
    await hang_up(duo.router, duo.decodes[0], stream=False)
    await duo.prefills[0].saw(2)
    assert duo.prefills[0].seen[1].request.method == "DELETE"
    assert duo.caches == {}


async def test_a_client_that_goes_before_its_body_is_complete_reaches_no_worker(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker)
    _, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]))
    writer.write(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"prompt"')
    await writer.drain()
    writer.close()
    [line] = await router.audited()
    assert (line["outcome"], line["status"], line["attempts"]) == ("client_gone", 499, 0)
    assert worker.seen == []
