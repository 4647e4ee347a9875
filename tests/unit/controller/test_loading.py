"""Loading is asked for while something loads, never waited for, and told only when what is shown has changed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from tandem.api.handoff import Refusal
from tandem.controller.loading import (
    Loading,
    LoadingReader,
    RouterSource,
    Told,
    behind,
    is_loading,
    read_answer,
)
from tandem.kube.cache import Ref
from tests.unit.controller.samples import ended, pod, running
from tests.unit.kube.fakes import FakeClock, settle

CHAT = Ref("ModelDeployment", "ns", "chat")
GB = 10**9
STARTING = running(ready=False, started=False)
NAME = STARTING["metadata"]["name"]
ROUTER = {**running(ready=True, name="router")}
ROUTER["status"] = {**ROUTER["status"], "podIP": "10.0.0.7"}


@pytest.mark.parametrize(
    ("sample", "loading"),
    [
        (STARTING, True),
        (running(ready=False), False),
        (running(ready=True), False),
        (ended(1), False),
        (pod(), False),
        (running(ready=False, started=False, name="router"), False),
        ({**STARTING, "metadata": {**STARTING["metadata"], "deletionTimestamp": "x"}}, False),
    ],
)
def test_a_worker_loads_until_its_startup_probe_has_passed(sample: dict[str, Any], loading: bool) -> None:
    assert is_loading(sample) is loading


@pytest.mark.parametrize(
    ("loaded", "total", "shown"),
    [
        (3_100_000_000, 14_900_000_000, "3.1/14.9 GB"),
        (0, 14_900_000_000, "0.0/14.9 GB"),
        (400_000, 12_000_000, "0.4/12.0 MB"),
        (5, 900, "0.0/0.9 kB"),
    ],
)
def test_sizes_are_shown_in_the_unit_of_the_whole(loaded: int, total: int, shown: str) -> None:
    assert str(Loading(loaded, total)) == shown


def test_of_several_workers_the_one_with_most_to_go_is_shown() -> None:
    second = {**STARTING, "metadata": {**STARTING["metadata"], "name": "second"}}
    known = {NAME: Loading(3 * GB, 4 * GB), "second": Loading(GB, 4 * GB), "other": Loading(0, 4 * GB)}
    assert behind([STARTING, second], known) == Loading(GB, 4 * GB)
    assert behind([running(ready=True)], known) is None
    assert behind([STARTING], {}) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"workers": 3}',
        b'{"workers": [{"name": "a"}]}',
        b'{"workers": [{"name": "a", "loaded_bytes": "x", "total_bytes": 3}]}',
        b'{"workers": [{"name": "a", "loaded_bytes": 4, "total_bytes": 3}]}',
        b'{"workers": [{"name": "a", "loaded_bytes": 0, "total_bytes": 0}]}',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_not_understood_tells_nothing(body: bytes) -> None:
    assert read_answer(body) == Told()


def test_refused_kv_is_read_with_the_worker_and_what_differs() -> None:
    refused = {"name": "d-0", "revision": "r1", "reason": "dtype", "message": "dtype is 'F32' there"}
    body = {"workers": [], "refused_handoffs": [refused]}
    assert read_answer(json.dumps(body).encode()) == Told({}, (Refusal("d-0", "dtype", "dtype is 'F32' there"),))
    assert read_answer(b'{"workers": [], "refused_handoffs": []}') == Told({}, ())
    assert read_answer(b'{"workers": [], "refused_handoffs": [{"name": "d-0"}]}') == Told()


class Routers:
    """Routers that answer when the test lets them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.answer = Told()
        self.asked: list[tuple[float, str]] = []
        self.news: list[Ref] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def ask(self, address: str) -> Told:
        self.asked.append((self.clock.seconds - 1000, address))
        await self.answering.wait()
        return self.answer

    def reader(self) -> LoadingReader:
        return LoadingReader(self, self.clock, changed=self.news.append)


async def look(
    reader: LoadingReader, *workers: dict[str, Any], routers: Any = (ROUTER,), hands_off: bool = False
) -> float | None:
    wait = reader.look(CHAT, workers=workers, routers=routers, hands_off=hands_off)
    await settle()
    return wait


async def test_a_loading_worker_is_asked_every_few_seconds_and_news_are_told() -> None:
    routers = Routers()
    async with routers.reader() as reader:
        for second in range(12):
            routers.answer = Told({NAME: Loading(second * GB // 10, 4 * GB)})
            assert await look(reader, STARTING)
            await routers.clock.advance(1)
        assert routers.asked == [(0, "10.0.0.7"), (5, "10.0.0.7"), (10, "10.0.0.7")]
        assert routers.news == [CHAT] * 3
        assert reader.known(CHAT).loading == {NAME: Loading(GB, 4 * GB)}


async def test_an_answer_is_not_waited_for_and_a_second_is_not_asked_for_meanwhile() -> None:
    routers = Routers()
    routers.answering.clear()
    async with routers.reader() as reader:
        assert await look(reader, STARTING) == 5
        assert await look(reader, STARTING) == 5
        assert len(routers.asked) == 1
        assert routers.news == []


async def test_bytes_that_change_nothing_that_is_shown_are_no_news() -> None:
    routers = Routers()
    async with routers.reader() as reader:
        for more in (0, 1, 2, 3):
            routers.answer = Told({NAME: Loading(GB + more, 4 * GB)})
            await look(reader, STARTING)
            await routers.clock.advance(5)
        assert len(routers.asked) == 4
        assert routers.news == [CHAT]


async def test_backends_that_do_not_tell_are_asked_ever_more_rarely() -> None:
    routers = Routers()
    async with routers.reader() as reader:
        waits = []
        for _ in range(5):
            wait = await look(reader, STARTING)
            assert wait is not None
            waits.append(wait)
            await routers.clock.advance(wait)
        assert waits == [5, 10, 20, 20, 20]
        assert routers.news == []


async def test_nobody_is_asked_when_nothing_loads_or_no_router_is_ready() -> None:
    routers = Routers()
    gone = {**ROUTER, "metadata": {**ROUTER["metadata"], "deletionTimestamp": "x"}}
    async with routers.reader() as reader:
        assert await look(reader, running(ready=True)) is None
        assert await look(reader) is None
        assert await look(reader, STARTING, routers=()) is None
        assert await look(reader, STARTING, routers=(running(ready=False, name="router"), gone)) is None
        assert routers.asked == []


async def test_a_worker_that_is_ready_is_forgotten_and_a_late_answer_is_no_news() -> None:
    routers = Routers()
    routers.answer = Told({NAME: Loading(GB, 4 * GB)})
    routers.answering.clear()
    async with routers.reader() as reader:
        await look(reader, STARTING)
        assert await look(reader, running(ready=True)) is None
        routers.answering.set()
        await settle()
        assert reader.known(CHAT) == Told()
        assert routers.news == []


async def test_while_nothing_loads_refused_kv_is_asked_for_every_minute_and_told_once() -> None:
    routers, refusals = Routers(), (Refusal("d-0", "protocol", "another version"),)
    routers.answer = Told({}, ())
    async with routers.reader() as reader:
        for minute in range(6):
            if minute == 3:
                routers.answer = Told({}, refusals)
            assert await look(reader, running(ready=True), hands_off=True) is None, "no reconcile is needed"
            await routers.clock.advance(60)
        assert len(routers.asked) == 7
        assert routers.news == [CHAT] * 2, "that it tells at all, and what"
        assert reader.known(CHAT) == Told({}, refusals)


async def test_what_is_refused_now_and_then_is_forgotten_only_after_some_answers() -> None:
    routers, refusals = Routers(), (Refusal("d-0", "protocol", "another version"),)
    async with routers.reader() as reader:
        shown = []
        for told in (refusals, (), refusals, None, (), (), ()):
            routers.answer = Told({}, told)
            await look(reader, running(ready=True), hands_off=True)
            await routers.clock.advance(60 if shown else 0)
            shown.append(reader.known(CHAT).refusals)
        assert shown == [refusals] * 6 + [()]
        assert routers.news == [CHAT] * 2


async def test_a_worker_that_begins_to_load_is_asked_for_at_once() -> None:
    routers = Routers()
    async with routers.reader() as reader:
        await look(reader, running(ready=True), hands_off=True)
        await routers.clock.advance(1)
        assert await look(reader, STARTING, hands_off=True) == 5
        assert len(routers.asked) == 2
        await look(reader)
        await routers.clock.advance(600)
        assert len(routers.asked) == 2, "it is forgotten"


async def serve(handler: Any) -> tuple[web.AppRunner, int]:
    application = web.Application()
    application.router.add_get("/loading", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, {"workers": [{"name": "a", "loaded_bytes": 1, "total_bytes": 3}]}, Told({"a": Loading(1, 3)})),
        (200, {"workers": [], "filler": "x" * 100_000}, Told()),
        (404, {"workers": [{"name": "a", "loaded_bytes": 1, "total_bytes": 3}]}, Told()),
        (302, {}, Told()),
    ],
)
async def test_a_router_is_asked_over_http(status: int, body: Any, found: Any) -> None:
    async def answer(_: web.Request) -> web.Response:
        headers = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

    runner, port = await serve(answer)
    try:
        async with RouterSource(port=port) as source:
            assert await source.ask("127.0.0.1") == found
    finally:
        await runner.cleanup()


async def test_a_router_that_cannot_be_reached_tells_nothing() -> None:
    async with RouterSource(port=1) as source:
        assert await source.ask("127.0.0.1") == Told()
        assert await source.ask("::1") == Told()
