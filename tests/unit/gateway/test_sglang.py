"""SGLang apart: both workers get the same request at once and meet in a room; neither serves one alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from tandem.gateway.fleet import Role
from tandem.gateway.sglang import ROOMS, with_room
from tests.unit.gateway.workers import DONE, answer, cut, event, prompt_of, stream, text_for, text_of

ROOM_KEYS = ("bootstrap_host", "bootstrap_port", "bootstrap_room")


class Rooms:
    """The KV caches that prefill workers offer, by room; workers refuse what SGLang 0.5.23 refuses."""

    def __init__(self):
        self.offered = {}
        self.drained = asyncio.Event()

    def _room(self, room):
        return self.offered.setdefault(room, asyncio.get_running_loop().create_future())

    async def serve(self, worker, seen):
        room = seen.body.get("bootstrap_room")
        if room is None:
            return web.json_response(
                {"message": "Disaggregated request received without bootstrap room id"}, status=400
            )
        if worker.role is Role.PREFILL:
            self._room(room).set_result(prompt_of(seen.body))
            if seen.body.get("stream"):
                async with stream(seen) as response:
                    await response.write(event("x"))
                    await response.write(DONE)
                    self.drained.set()
                    return response
            self.drained.set()
            return web.json_response({"choices": [{"text": "x"}]})
        assert seen.body["bootstrap_host"] == "127.0.0.1"
        text = text_for(await self._room(room))
        if seen.body.get("stream"):
            async with stream(seen) as response:
                for word in text.split(" "):
                    await response.write(event(word))
                await response.write(DONE)
                return response
        return web.json_response({"choices": [{"text": text}]})


@pytest.fixture
async def rooms(start_duo):
    async def start(**options):
        duo = await start_duo(backend="sglang", **options)
        kept = Rooms()
        for worker in duo.all:
            worker.handler = kept.serve
        return duo, kept

    return start


async def test_both_workers_get_the_clients_body_and_one_room(rooms):
    duo, _ = await rooms(prefills=1, decodes=1)
    raw = b'{ "model": "m", "prompt": "hi", "max_tokens": 7, "temperature": 1e-3, "logprobs": 1, "echo": true }'

    response, body = await duo.router.post("/v1/completions", raw)

    assert response.status == 200
    assert body["choices"][0]["text"] == text_for("hi")
    [prefill], [decode] = duo.prefills[0].seen, duo.decodes[0].seen
    assert prefill.body == decode.body
    assert {key: value for key, value in decode.body.items() if key not in ROOM_KEYS} == json.loads(raw)
    assert decode.body["bootstrap_host"] == duo.prefills[0].endpoint().address
    assert decode.body["bootstrap_port"] is None
    assert 0 <= decode.body["bootstrap_room"] < ROOMS
    assert await duo.router.metric('tandem_router_pairs_total{revision="r1"}') == 1


async def test_a_stream_comes_from_decode_and_prefill_is_read_to_its_end(rooms):
    duo, kept = await rooms()

    _, raw = await duo.router.complete("hi there", stream=True)

    assert text_of(raw) == text_for("hi there").replace(" ", "")
    await asyncio.wait_for(kept.drained.wait(), 10)


async def test_requests_have_rooms_of_their_own(rooms):
    duo, _ = await rooms()

    await asyncio.gather(*(duo.router.complete(f"p{number}") for number in range(20)))

    assert len({seen.body["bootstrap_room"] for seen in duo.seen(Role.DECODE)}) == 20


async def test_a_room_of_the_client_never_reaches_a_worker(rooms):
    duo, _ = await rooms()

    response, _ = await duo.router.complete("hi", bootstrap_room=7, bootstrap_host="10.0.0.1", bootstrap_port=1)

    assert response.status == 200
    assert [seen.body["bootstrap_room"] == 7 for seen in duo.seen(Role.DECODE)] == [False]


@pytest.mark.parametrize("failure", [cut, answer(500)])
async def test_a_failing_prefill_ends_decode_and_another_pair_is_asked(rooms, failure):
    duo, kept = await rooms()

    async def fails_once(worker, seen):
        for each in duo.prefills:
            each.handler = kept.serve
        await asyncio.gather(*(other.saw() for other in duo.decodes if other.seen))
        return await failure(worker, seen)

    for worker in duo.prefills:
        worker.handler = fails_once

    response, body = await duo.router.complete("hi")

    assert response.status == 200
    assert body["choices"][0]["text"] == text_for("hi")
    rooms_of_prefill = [seen.body["bootstrap_room"] for seen in duo.seen(Role.PREFILL)]
    assert len(set(rooms_of_prefill)) == 2


async def test_a_failing_decode_is_tried_elsewhere_with_a_new_room(rooms):
    duo, kept = await rooms()

    async def fails_once(worker, seen):
        for each in duo.decodes:
            each.handler = kept.serve
        return await answer(503)(worker, seen)

    for worker in duo.decodes:
        worker.handler = fails_once

    response, _ = await duo.router.complete("hi")

    assert response.status == 200
    assert len({seen.body["bootstrap_room"] for seen in duo.seen(Role.DECODE)}) == 2


async def test_without_a_prefill_worker_nothing_is_sent_and_the_answer_says_who_is_missing(rooms):
    duo, _ = await rooms(prefills=0)

    response, body = await duo.router.complete("hi")

    assert response.status == 503
    assert "no prefill worker" in body["error"]["message"]
    assert duo.seen(Role.DECODE) == []


async def test_a_request_that_the_workers_refuse_is_passed_on(rooms):
    duo, _ = await rooms()
    for worker in duo.all:
        worker.handler = answer(400, {"message": "bad temperature"})

    response, body = await duo.router.complete("hi")

    assert (response.status, body) == (400, {"message": "bad temperature"})


async def test_a_single_pool_gets_plain_requests(start_router, start_worker):
    worker = await start_worker("a-0", Role.AGG)
    router = await start_router(worker, backend="sglang")

    await router.complete("hi")

    assert [seen.body for seen in worker.seen] == [{"model": "m", "prompt": "hi"}]


@pytest.mark.parametrize("raw", [b"{}", b' {"a": 1}', b'{"prompt": "\xc3\xa9", "x": 1e-3}'])
def test_a_room_is_put_in_front_of_the_body(raw):
    made = with_room(raw, host="10.1.2.3", port=8999, draw=0.5)

    expected = {"bootstrap_host": "10.1.2.3", "bootstrap_port": 8999, "bootstrap_room": 2**62, **json.loads(raw)}
    assert json.loads(made) == expected
