"""The router tells how far workers that are not ready have loaded, and spares them many askers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tandem.gateway.fleet import Fleet, Role
from tests.unit.gateway.workers import Seen, Worker


def tells(loaded: Any, total: Any) -> Any:
    async def handler(worker: Worker, seen: Seen) -> web.Response:
        return web.json_response({"status": "loading", "loaded_bytes": loaded, "total_bytes": total}, status=503)

    return handler


async def asked(router: Any) -> Any:
    async with router.client.get(router.url + "/loading") as response:
        assert response.status == 200
        return (await response.json())["workers"]


async def test_workers_that_are_not_ready_are_asked(
    start_router: Callable[..., Any], start_worker: Callable[..., Any]
) -> None:
    ready, first, second, silent, odd = [
        await start_worker(name, Role.AGG) for name in ("ready", "first", "second", "silent", "odd")
    ]
    first.handler, second.handler, odd.handler = tells(1, 4), tells(0, 4), tells(5, 4)
    await silent.stop()
    router = await start_router(ready)
    router.view.publish(
        Fleet.of([ready.endpoint(), *(worker.endpoint(ready=False) for worker in (first, second, silent, odd))])
    )
    common = {"role": "agg", "revision": "r1", "total_bytes": 4}
    assert await asked(router) == [
        {"name": "first", "loaded_bytes": 1, **common},
        {"name": "second", "loaded_bytes": 0, **common},
    ]
    assert ready.seen == []
    assert [seen.path for seen in first.seen] == ["/health"]


async def test_many_askers_cost_the_workers_no_more_than_one(
    start_router: Callable[..., Any], start_worker: Callable[..., Any]
) -> None:
    worker = await start_worker("a", Role.AGG)
    worker.handler = tells(1, 4)
    router = await start_router(worker)
    router.view.publish(Fleet.of([worker.endpoint(ready=False)]))
    answers = await asyncio.gather(*(asked(router) for _ in range(20)))
    assert len(worker.seen) == 1
    assert all(answer == answers[0] for answer in answers)


async def test_a_worker_that_does_not_answer_is_not_waited_for_long(
    start_router: Callable[..., Any], start_worker: Callable[..., Any]
) -> None:
    hanging, telling = await start_worker("a", Role.AGG), await start_worker("b", Role.AGG)

    async def hang(worker: Worker, seen: Seen) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    hanging.handler, telling.handler = hang, tells(2, 4)
    router = await start_router(telling)
    router.view.publish(Fleet.of([hanging.endpoint(ready=False), telling.endpoint(ready=False)]))
    assert [worker["name"] for worker in await asyncio.wait_for(asked(router), 5)] == ["b"]


async def test_decode_workers_that_refuse_hand_offs_are_told_with_their_reason(start_duo: Callable[..., Any]) -> None:
    duo = await start_duo(prefills=1, decodes=2)
    refused = {"reason": "protocol", "message": "protocol is 'tandem-kv/2' at the prefill worker"}

    async def refuses(worker: Worker, seen: Seen) -> web.Response:
        return web.json_response({"status": "healthy", "refused_handoff": refused})

    duo.decodes[0].handler = refuses
    async with duo.router.client.get(duo.router.url + "/loading") as response:
        told = await response.json()
    assert told == {"workers": [], "refused_handoffs": [{"name": "d-0", "revision": "r1", **refused}]}
    assert duo.prefills[0].seen == []
