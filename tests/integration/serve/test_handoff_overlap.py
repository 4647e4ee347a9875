"""KV goes over while later parts of the prompt are computed, and whatever breaks meanwhile: the text is right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.transfer.identity import TOKEN_HEADER
from tests.unit.serve.handoffs import (
    NEW,
    TEXT,
    Clock,
    Held,
    alone,
    ask_prefill,
    counters,
    early_offer,
    freed,
    held,
    pair,
    relay,
)
from tests.unit.serve.live import LiveServer, eventually

pytestmark = pytest.mark.integration

CHUNK = 128
"""Tokens of a step of the prefill worker."""


@dataclass
class Scene:
    """A prefill worker that has computed a chunk and waits, its offer, and a decode worker."""

    prefill: LiveServer
    decode: LiveServer
    model: Held
    params: dict[str, Any]
    rest: aiohttp.ClientResponse
    clock: Clock

    @property
    def tokens(self) -> int:
        return int(self.params["remote_num_tokens"])

    def ask(self, **params: Any) -> asyncio.Task[Any]:
        """What the router asks of decode."""
        body = {"max_tokens": NEW, "kv_transfer_params": self.params | params}
        return asyncio.create_task(self.decode.complete(TEXT, **body))

    async def first_chunk_arrived(self) -> None:
        """The blocks of the first chunk are in decode's memory, and prefill is not done."""
        await eventually(lambda: self.decode.stats.prompt_tokens_transferred == CHUNK and self.model.waits)
        assert self.prefill.stats.running == 1
        assert self.prefill.stats.prompt_tokens_computed == CHUNK

    async def stopped(self) -> None:
        """Prefill has not computed the rest."""
        self.model.let_go()
        await freed(self.prefill)
        assert self.prefill.stats.prompt_tokens_computed < self.tokens


@contextlib.asynccontextmanager
async def scene(model: LoadedModel, **decode: Any) -> AsyncIterator[Scene]:
    """One in which prefill stops after its first chunk."""
    clock = Clock()
    with held(model) as (prefilling, runner):
        settings = {"max_num_batched_tokens": CHUNK}
        async with (
            pair(prefilling, decoder=model, clock=clock, prefill=settings, decode=decode) as (prefill, decoding),
            early_offer(prefill) as (params, rest),
        ):
            yield Scene(prefill, decoding, runner, params, rest, clock)
            runner.let_go()


async def test_a_chunk_is_handed_over_while_the_next_one_is_computed(expected: str, endless: LoadedModel) -> None:
    async with scene(endless) as now:
        answer = now.ask()
        await now.first_chunk_arrived()
        now.model.let_go()
        assert (await answer).text == expected
        assert (await now.rest.read()).endswith(b"data: [DONE]\n\n")
        counted = await counters(now.decode)
        assert (counted.transferred, counted.fallbacks, counted.failures) == (now.tokens - 1, 0, {})
        assert await now.decode.metric('tandem_prompt_tokens_total{source="computed"}') == 1
        assert await now.prefill.metric('tandem_kv_transfer_tokens_total{direction="sent"}') == now.tokens - 1
        await freed(now.prefill, now.decode)


async def test_a_prompt_of_one_chunk_is_offered_when_it_is_done(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode), early_offer(prefill) as (params, rest):
        assert await rest.read() == b"data: [DONE]\n\n"
        answer = await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)
        assert answer.text == expected
        await freed(prefill, decode)


async def test_several_prompts_are_offered_with_the_first_chunk(endless: LoadedModel) -> None:
    prompts = [TEXT, "lazy dog " * 20, "x"]
    with held(endless) as (model, runner):
        settings = {"max_num_batched_tokens": CHUNK}
        async with (
            pair(model, decoder=endless, prefill=settings) as (prefill, decode),
            early_offer(prefill, prompts) as (params, _),
        ):
            answer = asyncio.create_task(decode.complete(prompts, max_tokens=NEW, kv_transfer_params=params))
            await eventually(lambda: decode.stats.prompt_tokens_transferred > 0 and runner.waits)
            runner.let_go()
            texts = [choice["text"] for choice in (await answer).json["choices"]]
            assert texts == [alone(endless, prompt, NEW) for prompt in prompts]
            assert (await counters(decode)).fallbacks == 0
            await freed(prefill, decode)


async def test_prefill_that_only_takes_its_time_is_no_failure(expected: str, endless: LoadedModel) -> None:
    silence = 3.0
    with held(endless) as (model, runner):
        settings = {"max_num_batched_tokens": CHUNK, "pull_stall_seconds": silence}
        async with (
            pair(model, decoder=endless, prefill=settings, decode={"pull_stall_seconds": silence}) as (prefill, decode),
            relay(prefill) as (port, network),
            early_offer(prefill) as (params, _),
        ):
            body = {"max_tokens": NEW, "kv_transfer_params": params | {"remote_port": port}}
            answer = asyncio.create_task(decode.complete(TEXT, **body))
            await eventually(lambda: decode.stats.prompt_tokens_transferred == CHUNK and runner.waits)
            before = network.passed
            await eventually(lambda: network.passed >= before + 7 * 8)  # seven times "not yet", 0.6 s each
            runner.let_go()
            assert (await answer).text == expected
            assert (await counters(decode)).fallbacks == 0


async def test_a_prefill_worker_that_dies_between_chunks(expected: str, endless: LoadedModel) -> None:
    async with scene(endless) as now, relay(now.prefill) as (port, network):
        answer = now.ask(remote_port=port)
        await now.first_chunk_arrived()
        network.cut()
        assert (await answer).text == expected
        counted = await counters(now.decode)
        assert (counted.transferred, counted.fallbacks) == (CHUNK, 1)
        assert sum(counted.recomputed.values()) == now.tokens - 1 - CHUNK
        assert set(counted.failures) <= {"cut", "connect"}
        await freed(now.decode)


async def test_a_network_that_stands_still_between_chunks(expected: str, endless: LoadedModel) -> None:
    async with scene(endless, pull_stall_seconds=1.0) as now, relay(now.prefill) as (port, network):
        answer = now.ask(remote_port=port)
        await now.first_chunk_arrived()
        network.stand_still()
        assert (await answer).text == expected
        counted = await counters(now.decode)
        assert (counted.transferred, counted.fallbacks, counted.failures) == (CHUNK, 1, {"timeout": 1})
        await freed(now.decode)


async def test_a_prompt_that_prefill_gives_up_is_computed_by_decode(expected: str, endless: LoadedModel) -> None:
    async with scene(endless) as now:
        answer = now.ask()
        await now.first_chunk_arrived()
        now.rest.close()  # the router goes, and the sequence with it
        await eventually(lambda: not now.prefill.running.engine._inbox.empty())
        await now.stopped()
        assert (await answer).text == expected
        counted = await counters(now.decode)
        assert counted.failures == {"ended": 1}
        assert counted.transferred in (CHUNK, 2 * CHUNK), "the step that ran was its last"
        await freed(now.decode)


async def test_a_client_that_goes_while_chunks_come_ends_the_work_of_both(endless: LoadedModel) -> None:
    async with scene(endless) as now:
        answer = now.ask()
        await now.first_chunk_arrived()
        answer.cancel()
        await eventually(lambda: not len(now.prefill.running.backend.leases))
        await now.stopped()
        await freed(now.decode)
        assert (await counters(now.decode)).fallbacks == 0


async def test_a_decode_worker_that_dies_while_chunks_come_is_not_worked_for(endless: LoadedModel) -> None:
    async with scene(endless) as now:
        url = f"http://127.0.0.1:{now.prefill.port}/kv/{now.params['remote_request_id']}"
        shown = {TOKEN_HEADER: now.params["remote_token"]}
        async with aiohttp.ClientSession(headers=shown) as dying, dying.get(url) as pull:
            await pull.content.readexactly(CHUNK * endless.layout.bytes_per_token)
        await eventually(lambda: next(iter(now.prefill.running.backend.leases._leases.values())).readers == 0)
        now.clock.now += now.params["remote_lease_seconds"] - 1
        assert now.prefill.running.backend.leases.expire() == 0
        now.clock.now += 1
        assert now.prefill.running.backend.leases.expire() == 1
        await now.stopped()
        assert (await counters(now.prefill)).failures == {"not_taken": 1}
        assert (await now.rest.read()).endswith(b"data: [DONE]\n\n"), "nobody wants it any more: no error"


async def test_what_decode_has_already_is_not_computed_to_the_end(expected: str, endless: LoadedModel) -> None:
    async with scene(endless) as now:
        assert (await now.decode.complete(TEXT, max_tokens=NEW)).text == expected
        assert (await now.ask()).text == expected
        await eventually(lambda: not len(now.prefill.running.backend.leases))
        await now.stopped()
        assert (await counters(now.decode)).transferred == 0


async def test_an_offer_that_is_taken_back_ends_the_work(endless: LoadedModel) -> None:
    async with scene(endless) as now:
        assert (await ask_prefill(now.prefill, "DELETE", now.params, "?prompts=all")).status == 204
        await now.stopped()
        assert (await ask_prefill(now.prefill, "GET", now.params)).status == 404


async def test_without_the_token_nobody_gets_what_is_computed_so_far(endless: LoadedModel) -> None:
    async with scene(endless) as now:
        other = now.params | {"remote_token": "0" * 64}
        for method, path in (("GET", ""), ("POST", "/lease"), ("DELETE", "")):
            assert (await ask_prefill(now.prefill, method, other, path)).status == 403
        now.rest.close()
