"""SIGTERM: nobody loses a request, and the process ends."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest

from tandem.gateway.fleet import Role
from tests.unit.gateway import workers
from tests.unit.gateway.workers import event, stream_then_hang


async def status_of(router, path="/readyz"):
    async with router.client.get(router.url + path) as response:
        return response.status


async def refused(router):
    """Returns when the router takes no connections any more."""
    try:
        while True:
            await status_of(router)
    except aiohttp.ClientConnectionError:
        return


@pytest.fixture
async def start(start_router, start_worker):
    """A router as in its own process, over one aggregated worker."""

    async def made(**settings):
        return await start_router(await start_worker("w-0", Role.AGG), as_process=True, **settings)

    return made


async def test_draining_is_told_at_once_and_requests_are_still_taken_until_the_listener_closes(start):
    router = await start(drain_seconds=0.5, grace_seconds=5)
    release = asyncio.Event()

    async def slow(worker, seen):
        await release.wait()
        return await workers.serve(worker, seen)

    router.workers[0].handler = slow
    running = asyncio.create_task(router.complete("early"))
    await router.workers[0].saw()
    router.signals.put_nowait(signal.SIGTERM)
    while await status_of(router) == 200:
        pass
    assert await status_of(router, "/livez") == 200
    late = asyncio.create_task(router.complete("late"))
    await router.workers[0].saw(2)
    await refused(router)
    assert not router.serving.done()
    release.set()
    for request in (running, late):
        response, _ = await request
        assert response.status == 200
        assert response.headers["Connection"] == "close"
    await asyncio.wait_for(router.serving, 30)


async def test_what_outlives_the_grace_is_told_so_and_not_cut(start):
    router = await start(drain_seconds=0, grace_seconds=0.3)
    router.workers[0].script(stream_then_hang(event("one")), workers.hang)
    stream = asyncio.create_task(router.complete("x", stream=True))
    await router.workers[0].saw()
    whole = asyncio.create_task(router.complete("x"))
    await router.workers[0].saw(2)
    router.signals.put_nowait(signal.SIGTERM)
    _, raw = await stream
    assert raw.startswith(event("one"))
    assert json.loads(raw.split(b"\n\n")[1].removeprefix(b"data: "))["error"]["code"] == "router_stopping"
    response, body = await whole
    assert (response.status, body["error"]["code"]) == (503, "router_stopping")
    assert int(response.headers["Retry-After"]) > 0
    await asyncio.wait_for(router.serving, 30)
    for seen in router.workers[0].seen:
        await asyncio.wait_for(seen.cancelled.wait(), 5)


async def test_an_interrupt_does_not_wait_for_others_to_notice_and_a_second_one_for_nothing(start):
    router = await start(drain_seconds=60, grace_seconds=120)
    router.workers[0].handler = workers.hang
    request = asyncio.create_task(router.complete("x"))
    await router.workers[0].saw()
    router.signals.put_nowait(signal.SIGINT)
    await refused(router)
    router.signals.put_nowait(signal.SIGINT)
    assert (await request)[0].status == 503
    await asyncio.wait_for(router.serving, 30)
