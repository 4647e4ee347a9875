"""KV goes from a prefill to a decode worker: the text is that of one worker, and nothing is computed or sent twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve.handoffs import TEXT, alone, ask_prefill, counters, freed, offer, pair
from tests.unit.serve.live import eventually


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> str:
    """The text that one worker gives."""
    return alone(replace(llama, eos_ids=frozenset()), new_tokens=8)


async def test_the_text_is_that_of_one_worker_and_the_prompt_is_not_computed_twice(
    endless: LoadedModel, expected: str
) -> None:
    async with pair(endless) as (prefill, decode):
        params = await offer(prefill)
        tokens = params["remote_num_tokens"]
        assert set(params) == {
            "do_remote_prefill",
            "do_remote_decode",
            "remote_engine_id",
            "remote_request_id",
            "remote_host",
            "remote_port",
            "remote_num_tokens",
            "remote_lease_seconds",
            "remote_token",
            "remote_identity",
        }
        await eventually(lambda: prefill.stats.kv_used_tokens == blocks_for(tokens) * BLOCK_TOKENS)
        answer = await decode.complete(TEXT, max_tokens=8, kv_transfer_params=params)
        assert answer.text == expected
        nbytes = (tokens - 1) * endless.layout.bytes_per_token
        await freed(prefill, decode)
        for server, direction in ((prefill, "sent"), (decode, "received")):
            assert await server.metric(f'tandem_kv_transfer_tokens_total{{direction="{direction}"}}') == tokens - 1
            assert await server.metric(f'tandem_kv_transfer_bytes_total{{direction="{direction}"}}') == nbytes
        assert await decode.metric('tandem_prompt_tokens_total{source="transferred"}') == tokens - 1
        assert await decode.metric('tandem_prompt_tokens_total{source="computed"}') == 1
        counted = await counters(decode)
        assert (counted.fallbacks, counted.failures, counted.recomputed) == (0, {}, {})


async def test_chat_and_streams_are_handed_over_too(endless: LoadedModel) -> None:
    messages = [{"role": "user", "content": TEXT}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 6}
    async with pair(endless) as (prefill, decode):
        expected = (await prefill.post("/v1/chat/completions", body)).json["choices"][0]["message"]["content"]
        params = await offer(prefill, messages, "/v1/chat/completions", max_completion_tokens=1)
        answer = await decode.post("/v1/chat/completions", {**body, "stream": True, "kv_transfer_params": params})
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in answer.events[:-1]]
        assert "".join(pieces) == expected
        assert (await counters(decode)).transferred > 50


@pytest.mark.parametrize("reuse", [True, False])
async def test_several_prompts_and_choices_share_one_hand_off(endless: LoadedModel, *, reuse: bool) -> None:
    prompts = [TEXT, "lazy dog " * 20, "x"]
    sampled = {"temperature": 1.0, "seed": 3, "n": 2}
    async with pair(endless, decode={"prefix_reuse": reuse}) as (prefill, decode):
        expected = (await prefill.complete(prompts, max_tokens=8, **sampled)).json["choices"]
        params = await offer(prefill, prompts)
        answer = await decode.complete(prompts, max_tokens=8, kv_transfer_params=params, **sampled)
        assert answer.json["choices"] == expected
        await freed(prefill, decode)
        total = params["remote_num_tokens"]
        short = 1  # what is less than a block is computed, not fetched
        assert await decode.metric('tandem_kv_transfer_tokens_total{direction="received"}') == total - 2 - short


async def test_only_the_blocks_that_decode_does_not_have_are_fetched(endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        first = await offer(prefill)
        await decode.complete(TEXT, max_tokens=2, kv_transfer_params=first)
        more = TEXT + " and the bird flies over the river while the dog sleeps in the sun all day long"
        second = await offer(prefill, more)
        answer = await decode.complete(more, max_tokens=8, kv_transfer_params=second)
        assert answer.text == alone(endless, more, 8)
        known = (first["remote_num_tokens"] - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        fetched = await decode.metric('tandem_kv_transfer_tokens_total{direction="received"}')
        assert 0 < fetched - (first["remote_num_tokens"] - 1) <= second["remote_num_tokens"] - 1 - known + BLOCK_TOKENS
        await freed(prefill, decode)


async def test_what_decode_has_already_is_not_fetched_and_prefill_need_not_keep_it(
    endless: LoadedModel, expected: str
) -> None:
    async with pair(endless) as (prefill, decode):
        for _ in range(2):
            params = await offer(prefill)
            answer = await decode.complete(TEXT, max_tokens=8, kv_transfer_params=params)
            assert answer.text == expected
            await freed(prefill, decode)
        assert await prefill.metric('tandem_kv_transfer_tokens_total{direction="sent"}') == (
            params["remote_num_tokens"] - 1
        )


async def test_kept_kv_counts_until_it_is_fetched_or_freed(endless: LoadedModel) -> None:
    async with pair(endless, prefill={"kv_cache_tokens": 200}) as (prefill, _):
        params = await offer(prefill, list(range(2, 152)))
        waiting = asyncio.create_task(prefill.complete(list(range(102, 202)), max_tokens=1))
        await eventually(lambda: prefill.stats.waiting == 1)
        assert (await ask_prefill(prefill, "DELETE", params)).status == 204
        assert (await waiting).status == 200
        assert (await ask_prefill(prefill, "DELETE", params)).status == 404
        await freed(prefill)


async def test_what_is_given_back_as_a_whole_is_free_at_once(endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, _):
        params = await offer(prefill, [TEXT, "lazy dog " * 20, "x"])
        assert len(prefill.running.backend.leases) == 3
        assert (await ask_prefill(prefill, "DELETE", params, "?prompts=all")).status == 204
        await freed(prefill)
        assert (await ask_prefill(prefill, "DELETE", params, "?prompts=all")).status == 404
