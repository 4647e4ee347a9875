"""Whatever breaks during a hand-off: the text is right, both sides free their memory, and it is counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.transfer.identity import PROTOCOL, TOKEN_HEADER
from tandem_serve.http.app import create_app
from tests.unit.serve import handoffs, tiny
from tests.unit.serve.handoffs import NEW, TEXT, Clock, ask_prefill, counters, freed, network, offer, pair
from tests.unit.serve.live import LiveServer, eventually, live_server

pytestmark = pytest.mark.integration


async def right_all_the_same(
    decode: LiveServer, params: dict[str, Any], expected: str, *, reason: str, arrived: bool | None = False
) -> None:
    """Decodes with a hand-off that fails, and checks what is counted.

    `arrived`: whether a part of it came through; None: that is left to chance.
    """
    before, computed = await counters(decode), decode.stats.prompt_tokens_computed
    answer = await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)
    assert (answer.status, answer.text) == (200, expected)
    after = await counters(decode)
    assert after.failures[reason] == before.failures.get(reason, 0) + 1
    assert sum(after.failures.values()) == sum(before.failures.values()) + 1
    assert after.fallbacks == before.fallbacks + 1
    transferred = after.transferred - before.transferred
    assert arrived is None or (transferred > 0) == arrived
    tokens = len(decode.core.codec.encode(TEXT))
    recomputed = after.recomputed[reason] - before.recomputed.get(reason, 0)
    assert transferred + recomputed in (tokens, tokens - 1)
    assert sum(after.recomputed.values()) == sum(before.recomputed.values()) + recomputed
    assert decode.stats.prompt_tokens_computed - computed == tokens - transferred


# ---- the network --------------------------------------------------------------------------------------------------


async def test_bytes_that_do_not_arrive_as_sent(expected: str, endless: LoadedModel) -> None:
    faults: list[tuple[handoffs.Spoil, str, bool | None]] = [
        (handoffs.altered, "digest", True),
        (handoffs.cut, "cut", None),
        (handoffs.shorter, "cut", True),
        (handoffs.resized, "size", False),
        (handoffs.something_else, "header", False),
    ]
    async with pair(endless, decode={"prefix_reuse": False}) as (prefill, decode):
        for spoil, reason, arrived in faults:
            async with network(prefill, spoil) as port:
                params = await offer(prefill) | {"remote_port": port}
                await right_all_the_same(decode, params, expected, reason=reason, arrived=arrived)
                await freed(prefill, decode)


async def test_a_network_that_stands_still(expected: str, endless: LoadedModel) -> None:
    async with (
        pair(endless, decode={"pull_stall_seconds": 0.3}) as (prefill, decode),
        network(prefill, handoffs.stalled) as port,
    ):
        params = await offer(prefill) | {"remote_port": port}
        await right_all_the_same(decode, params, expected, reason="timeout", arrived=None)
        await freed(prefill, decode)


@pytest.mark.parametrize("spoil", [handoffs.slow, handoffs.longer])
async def test_a_slow_network_is_no_failure_and_what_was_not_wanted_is_not_read(
    expected: str, endless: LoadedModel, spoil: handoffs.Spoil
) -> None:
    async with pair(endless) as (prefill, decode), network(prefill, spoil) as port:
        params = await offer(prefill) | {"remote_port": port}
        assert (await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)).text == expected
        counted = await counters(decode)
        assert (counted.transferred, counted.fallbacks) == (params["remote_num_tokens"] - 1, 0)
        await freed(prefill, decode)


# ---- the prefill worker -------------------------------------------------------------------------------------------


async def test_a_prefill_worker_that_is_gone_before_the_pull(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        params = await offer(prefill)
        await right_all_the_same(decode, params | {"remote_port": 1}, expected, reason="connect")
        await freed(decode)
        assert (await ask_prefill(prefill, "DELETE", params)).status == 204
        await freed(prefill)


async def test_a_prefill_worker_that_dies_after_the_pull(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        async with network(prefill, handoffs.slow) as port:
            params = await offer(prefill) | {"remote_port": port}
            streaming = decode.post(
                "/v1/completions",
                {"prompt": TEXT, "max_tokens": NEW, "temperature": 0, "stream": True, "kv_transfer_params": params},
            )
            task = asyncio.create_task(streaming)
            await eventually(lambda: decode.stats.prompt_tokens_transferred == params["remote_num_tokens"] - 1)
        events = (await task).events
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == expected
        assert (await counters(decode)).fallbacks == 0
        await freed(decode)


async def test_a_lease_that_has_ended(expected: str, endless: LoadedModel) -> None:
    clock = Clock()
    async with pair(endless, clock=clock) as (prefill, decode):
        params = await offer(prefill)
        clock.now += params["remote_lease_seconds"]
        await right_all_the_same(decode, params, expected, reason="gone")
        prefill.running.backend.leases.expire()
        await freed(prefill, decode)


async def test_a_prefill_worker_that_was_started_again_under_the_same_address(
    expected: str, endless: LoadedModel
) -> None:
    async with (
        pair(endless) as (prefill, decode),
        live_server(tiny.settings(Path("x"), role="prefill"), endless) as other,
    ):
        params = await offer(prefill) | {"remote_port": other.port}
        await right_all_the_same(decode, params, expected, reason="token")
        assert await other.metric('tandem_kv_transfer_failures_total{reason="forbidden"}') >= 1
        await freed(decode, other)


async def test_a_prefill_that_is_cancelled_keeps_nothing(endless: LoadedModel) -> None:
    clock = Clock()
    async with pair(endless, prefill={"kv_cache_tokens": 1024}, clock=clock) as (prefill, _):
        body = {"prompt": list(range(2, 302)), "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        tasks = [asyncio.create_task(prefill.post("/v1/completions", body)) for _ in range(6)]
        await eventually(lambda: prefill.stats.kv_used_tokens > 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: prefill.stats.running + prefill.stats.waiting == 0)
        await eventually(lambda: not prefill.running.backend.client.in_flight)
        clock.now += prefill.service.settings.lease_seconds  # one may have ended in the same moment
        prefill.running.backend.leases.expire()
        await freed(prefill)


# ---- the decode worker and the router -----------------------------------------------------------------------------


async def test_an_offer_that_nobody_takes_up_is_over_with_its_lease(endless: LoadedModel) -> None:
    clock = Clock()
    async with pair(endless, clock=clock) as (prefill, _):
        params = await offer(prefill)
        clock.now += params["remote_lease_seconds"] - 1
        assert (await ask_prefill(prefill, "POST", params, "/lease")).status == 204, "a decode worker that waits"
        clock.now += params["remote_lease_seconds"] - 1
        assert prefill.running.backend.leases.expire() == 0
        clock.now += 1
        assert (await ask_prefill(prefill, "POST", params, "/lease")).status == 404
        assert prefill.running.backend.leases.expire() == 1
        await freed(prefill)


async def test_a_decode_worker_that_dies_in_the_middle_of_a_pull(endless: LoadedModel) -> None:
    clock = Clock()
    async with live_server(tiny.settings(Path("x"), role="prefill"), endless, clock=clock) as prefill:
        params = await offer(prefill)
        messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(_: Any) -> None:
            await asyncio.sleep(0)

        await create_app(prefill.service)(scope(params), receive, send)
        assert (await counters(prefill)).failures == {"not_taken": 1}
        assert prefill.stats.kv_used_tokens > 0, "it may be asked for once more"
        clock.now += params["remote_lease_seconds"]
        prefill.running.backend.leases.expire()
        await freed(prefill)


def scope(params: dict[str, Any]) -> dict[str, Any]:
    """A request for KV as the server hands it to the app."""
    path = f"/kv/{params['remote_request_id']}"
    headers = [(TOKEN_HEADER.lower().encode(), params["remote_token"].encode())]
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


async def test_a_receiver_that_stops_reading_does_not_hold_the_memory(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), role="prefill", pull_timeout=0.05), endless) as prefill:
        params = await offer(prefill)
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await never.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await never.wait()

        await create_app(prefill.service)(scope(params), receive, send)
        assert (await counters(prefill)).failures == {"not_taken": 1}
        assert await prefill.metric('tandem_kv_transfer_tokens_total{direction="sent"}') == 0
        assert (await ask_prefill(prefill, "DELETE", params)).status == 204
        await freed(prefill)


async def test_a_client_or_router_that_goes_during_the_pull_frees_both_sides(endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode), network(prefill, handoffs.stalled) as port:
        params = await offer(prefill) | {"remote_port": port}
        body = {"prompt": TEXT, "max_tokens": NEW, "kv_transfer_params": params}
        task = asyncio.create_task(decode.post("/v1/completions", body))
        await eventually(lambda: decode.stats.prompt_tokens_transferred > 0)
        task.cancel()
        await freed(prefill, decode)


async def test_a_client_that_goes_while_decode_has_no_room_frees_both_sides(endless: LoadedModel) -> None:
    async with pair(endless, decode={"max_num_seqs": 1}) as (prefill, decode):
        busy = asyncio.create_task(decode.complete("x", max_tokens=900))
        await eventually(lambda: decode.stats.running == 1)
        params = await offer(prefill)
        body = {"prompt": TEXT, "max_tokens": NEW, "kv_transfer_params": params}
        waiting = asyncio.create_task(decode.post("/v1/completions", body))
        await eventually(lambda: len(decode.running.puller) == 1)
        waiting.cancel()
        await freed(prefill)
        busy.cancel()
        await freed(decode)


# ---- offers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [True, False])
async def test_an_offer_that_comes_twice_at_once_is_fetched_once(
    expected: str, endless: LoadedModel, *, reuse: bool
) -> None:
    async with pair(endless, decode={"prefix_reuse": reuse}) as (prefill, decode):
        params = await offer(prefill)
        asked = [decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params) for _ in range(3)]
        assert [answer.text for answer in await asyncio.gather(*asked)] == [expected] * 3
        await freed(prefill, decode)


async def test_an_offer_that_is_replayed_is_gone(expected: str, endless: LoadedModel) -> None:
    async with pair(endless, decode={"prefix_reuse": False}) as (prefill, decode):
        params = await offer(prefill)
        for _ in range(2):
            answer = await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)
            assert answer.text == expected
            await freed(prefill, decode)
        counted = await counters(decode)
        assert (counted.failures, counted.fallbacks) == ({"gone": 1}, 1)
        assert counted.transferred == counted.recomputed["gone"] == params["remote_num_tokens"] - 1


async def test_an_offer_of_another_prompt_is_refused(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        other = await offer(prefill, [5] * len(prefill.core.codec.encode(TEXT)))
        await right_all_the_same(decode, other, expected, reason="prompt")
        await freed(prefill, decode)


async def test_an_offer_that_cannot_be_right_is_not_followed(expected: str, endless: LoadedModel) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"remote_port": "9"}, "params"),
        ({"remote_request_id": "../metrics"}, "params"),
        ({"remote_host": None}, "params"),
        ({"remote_token": None}, "params"),
        ({"remote_token": "a\nHost: b"}, "params"),
        ({"remote_lease_seconds": -1}, "params"),
        ({"remote_num_tokens": 3}, "tokens"),
    ]
    async with pair(endless, decode={"prefix_reuse": False}) as (prefill, decode):
        params = await offer(prefill)
        for change, reason in changes:
            await right_all_the_same(decode, params | change, expected, reason=reason)
            assert len(decode.running.puller) == 0
        assert (await ask_prefill(prefill, "GET", params)).status == 200, "nobody has touched it"


async def test_another_model_or_version_is_refused_before_anything_is_fetched_and_health_says_so(
    expected: str, endless: LoadedModel, qwen2: LoadedModel
) -> None:
    other = replace(qwen2, eos_ids=frozenset())
    async with pair(other, decoder=endless) as (prefill, decode):
        await right_all_the_same(decode, await offer(prefill), expected, reason="model")
        refused = (await decode.get("/health")).json["refused_handoff"]
        assert refused["reason"] == "model"
        assert "model_digest is" in refused["message"]
        assert await prefill.metric('tandem_kv_transfer_bytes_total{direction="sent"}') == 0
        await freed(prefill, decode)


async def test_an_offer_without_an_identity_is_refused_and_need_not_be_kept(
    expected: str, endless: LoadedModel
) -> None:
    async with pair(endless) as (prefill, decode):
        await right_all_the_same(decode, await offer(prefill) | {"remote_identity": None}, expected, reason="protocol")
        await freed(prefill, decode)


async def test_another_version_of_the_protocol_is_refused_until_they_agree_again(
    expected: str, endless: LoadedModel
) -> None:
    async with pair(endless) as (prefill, decode):
        params = await offer(prefill)
        old = params | {"remote_identity": params["remote_identity"] | {"protocol": "tandem-kv/2"}}
        await right_all_the_same(decode, old, expected, reason="protocol")
        refused = (await decode.get("/health")).json["refused_handoff"]
        assert refused == {
            "reason": "protocol",
            "message": f"protocol is 'tandem-kv/2' at the prefill worker and '{PROTOCOL}' here",
        }
        assert (await decode.complete(TEXT, max_tokens=NEW, kv_transfer_params=params)).text == expected
        assert "refused_handoff" not in (await decode.get("/health")).json


async def test_without_the_token_of_the_offer_nobody_learns_whether_it_is_there(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), role="prefill"), endless) as prefill:
        params = await offer(prefill)
        for method, path, kv_id in (
            ("GET", "", params["remote_request_id"]),
            ("GET", "", "nothing"),
            ("POST", "/lease", params["remote_request_id"]),
            ("POST", "/lease", "nothing"),
        ):
            for headers in ({}, {TOKEN_HEADER: "0" * 64}):
                answer = await prefill.request(method, f"/kv/{kv_id}{path}", headers=headers)
                assert (answer.status, answer.error["code"]) == (403, "kv_token")
        assert (await prefill.request("DELETE", f"/kv/{params['remote_request_id']}")).status == 403
        for first in (-1, params["remote_num_tokens"] - 1, 10**9):
            assert (await ask_prefill(prefill, "GET", params, f"?first={first}")).status == 400
        assert (await ask_prefill(prefill, "GET", params)).status == 200


async def test_without_an_offer_a_decode_worker_prefills_and_counts_it(expected: str, endless: LoadedModel) -> None:
    async with pair(endless) as (prefill, decode):
        assert (await decode.complete(TEXT, max_tokens=NEW)).text == expected
        assert (await prefill.complete(TEXT, max_tokens=NEW)).text == expected
        tokens = len(decode.core.codec.encode(TEXT))
        assert (await counters(decode)).recomputed == {"no_offer": tokens}
        assert (await counters(prefill)).fallbacks == 0
        wrong_role = await prefill.complete(TEXT, kv_transfer_params={"do_remote_prefill": True})
        assert (wrong_role.status, wrong_role.error["param"]) == (400, "kv_transfer_params")
