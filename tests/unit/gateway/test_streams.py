"""Streams: nothing held back, nothing cut in silence."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from tandem.gateway.events import LONGEST_EVENT
from tandem.gateway.fleet import Role
from tests.unit.gateway.workers import DONE, event, stream, stream_then_cut, stream_then_hang


@pytest.fixture
async def router(start_router, start_worker):
    """One aggregated worker and an idle limit that a test can wait for."""
    return await start_router(await start_worker("w-0", Role.AGG), idle_seconds=0.3, first_byte_seconds=5)


async def test_every_event_is_passed_on_as_soon_as_it_is_there(router):
    go = asyncio.Queue()

    async def stepwise(worker, seen):
        async with stream(seen) as response:
            for word in ("a", "b", "c"):
                await go.get()
                await response.write(event(word))
            await response.write(DONE)
            return response

    router.workers[0].handler = stepwise
    go.put_nowait(None)
    async with router.client.post(router.url + "/v1/completions", json={"prompt": "x", "stream": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for word in ("a", "b", "c"):
            assert await response.content.readuntil(b"\n\n") == event(word)
            go.put_nowait(None)
        assert await response.content.read() == DONE
    [line] = await router.audited()
    assert (line["outcome"], line["stream"], line["attempts"]) == ("ok", True, 1)
    assert 0 <= line["first_byte_seconds"] <= line["seconds"]


async def test_bytes_are_passed_on_as_they_are_however_they_are_cut(router):
    whole = b": comment\n\n" + event("a") + b"event: x\r\ndata: {}\r\n\r\n" + event("b") + DONE

    async def bytewise(worker, seen):
        async with stream(seen) as response:
            for index in range(len(whole)):
                await response.write(whole[index : index + 1])
                await asyncio.sleep(0)
            return response

    router.workers[0].handler = bytewise
    _, raw = await router.complete("x", stream=True)
    assert raw == whole


@pytest.mark.parametrize("started", [stream_then_cut(), stream_then_cut(b": ping\n\n"), stream_then_cut(b"data: {")])
async def test_a_failure_before_the_first_event_is_tried_again(router, started):
    router.workers[0].script(started)
    response, raw = await router.complete("x", stream=True)
    assert response.status == 200
    assert raw.endswith(DONE)
    assert b"error" not in raw
    assert response.headers["x-tandem-attempts"] == "2"


async def test_an_error_as_first_event_is_the_status_it_stands_for(router):
    told = {"error": {"message": "too long", "code": 400}}
    router.workers[0].script(stream_then_hang(b"data: " + json.dumps(told).encode() + b"\n\n"))
    response, body = await router.complete("x", stream=True)
    assert (response.status, body) == (400, told)
    router.workers[0].script(stream_then_hang(b'data: {"error": {"message": "engine died"}}\n\n'))
    response, raw = await router.complete("x", stream=True)
    assert (response.status, raw["error"]["message"]) == (500, "engine died")


@pytest.mark.parametrize(
    ("break_off", "reason"),
    [
        (stream_then_cut(event("one"), event("two")[:20]), "broke"),
        (stream_then_hang(event("one"), event("two")[:20]), "silent"),
    ],
)
async def test_a_failure_after_the_first_event_ends_in_an_error_event(router, break_off, reason):
    router.workers[0].handler = break_off
    response, raw = await router.complete("x", stream=True)
    assert response.status == 200
    first, last = raw.split(b"\n\n")[:2]
    assert first + b"\n\n" == event("one")
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["code"] == "stream_broken"
    assert reason in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert (await router.audited())[0]["outcome"] == "stream_broken"
    assert len(router.workers[0].seen) == 1


def endless(head, chunk):
    """A stream whose last event never ends."""

    async def handler(worker, seen):
        async with stream(seen) as response:
            await response.write(head)
            while True:
                await response.write(chunk)

    return handler


async def test_an_event_without_end_before_the_first_is_tried_again(router):
    router.workers[0].script(endless(b"data: ", b"x" * 65536))
    response, raw = await router.complete("x", stream=True)
    assert (response.status, response.headers["x-tandem-attempts"]) == (200, "2")
    assert raw.endswith(DONE)


async def test_an_event_without_end_breaks_its_stream(router):
    router.workers[0].handler = endless(event("one"), b"x" * 65536)
    _, raw = await router.complete("x", stream=True)
    first, last = raw.split(b"\n\n")[:2]
    assert first + b"\n\n" == event("one")
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], f"larger than {LONGEST_EVENT} bytes" in error["message"]) == ("stream_broken", True)


async def test_a_stream_that_ends_politely_but_unfinished_is_not_taken_for_whole(router):
    async def unfinished(worker, seen):
        async with stream(seen) as response:
            await response.write(event("one"))
            return response

    router.workers[0].handler = unfinished
    _, raw = await router.complete("x", stream=True)
    assert b"[DONE]" in json.loads(raw.split(b"\n\n")[1].removeprefix(b"data: "))["error"]["message"].encode()


async def test_an_openai_client_reads_streams_and_sees_broken_ones(router):
    async with openai.AsyncOpenAI(base_url=router.url + "/v1", api_key="k", max_retries=0) as client:
        chunks = await client.completions.create(model="m", prompt="x", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in chunks]) == "answerto<x>"
        router.workers[0].handler = stream_then_cut(event("one"))
        broken = await client.completions.create(model="m", prompt="x", stream=True)
        with pytest.raises(openai.APIError, match="broke"):
            assert [chunk.choices[0].text async for chunk in broken] == ["one"]
    assert "authorization" not in router.workers[0].seen[0].headers


async def test_the_time_to_the_first_token_is_measured(router):
    await router.complete("x", stream=True)
    await router.complete("x")
    await router.audited(2)
    count = await router.metric('tandem_router_time_to_first_token_seconds_count{route="/v1/completions"}')
    assert count == 1


async def test_a_slow_reader_holds_the_worker_back_instead_of_filling_memory(router):
    written = 0
    chunk = event("x" * 65536)

    async def endless(worker, seen):
        nonlocal written
        async with stream(seen) as response:
            for _ in range(400):
                await response.write(chunk)
                written += len(chunk)
            await response.write(DONE)
            return response

    router.workers[0].handler = endless
    reader, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]), limit=2**16)
    body = b'{"prompt": "x", "stream": true}'
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while written != before:
        before = written
        await asyncio.sleep(0.1)
    assert written < 0.7 * 400 * len(chunk)
    writer.transport.abort()
    await asyncio.wait_for(router.workers[0].seen[0].cancelled.wait(), 5)
    assert (await router.audited())[0]["outcome"] == "client_gone"
