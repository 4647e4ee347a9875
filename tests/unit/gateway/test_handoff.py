"""Prefill and decode apart: what each leg gets, what comes back, and what happens when one of them fails."""

from __future__ import annotations

import asyncio
import json

import pytest

from tandem.gateway.fleet import Role
from tests.unit.gateway import workers
from tests.unit.gateway.workers import answer, cut, hang, offers_early, prefill_answer, text_for


async def test_decode_gets_the_original_body_and_the_parameters_unchanged(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    raw = b'{ "model": "m", "prompt": "hi", "max_tokens": 7, "temperature": 1e-3, "n": 2, "min_tokens": 2 }'
    response, body = await duo.router.post("/v1/completions", raw, headers={"X-Request-Id": "abc"})
    assert response.status == 200
    assert body["choices"][0]["text"] == text_for("hi")
    [prefill], [decode] = duo.prefills[0].seen, duo.decodes[0].seen
    assert prefill.body == {
        "model": "m",
        "prompt": "hi",
        "max_tokens": 1,
        "temperature": 1e-3,
        "n": 1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False, "offer_early": True},
    }
    params = decode.body.pop("kv_transfer_params")
    assert decode.body == json.loads(raw)
    assert params == workers.handoff_params(duo.prefills[0], params["remote_request_id"])
    assert response.headers["x-tandem-prefill"] == "p-0"
    assert response.headers["x-tandem-decode"] == "d-0"
    assert response.headers["x-request-id"] == "abc"
    assert prefill.headers["X-Request-Id"] == decode.headers["X-Request-Id"]
    assert prefill.headers["X-Request-Id"].startswith("abc.")
    assert await duo.router.metric('tandem_router_pairs_total{revision="r1"}') == 1


async def test_decode_is_asked_while_prefill_still_computes_which_counts_as_its_load(start_duo):
    duo = await start_duo(prefills=2, decodes=1)
    computed = asyncio.Event()
    for worker in duo.prefills:
        worker.handler = offers_early(computed)
    used = []
    for _ in range(2):
        response, body = await duo.router.complete("hi")
        assert body["choices"][0]["text"] == text_for("hi")
        used.append(response.headers["x-tandem-prefill"])
    assert sorted(used) == ["p-0", "p-1"], "the first one still computes"
    computed.set()
    assert not any(seen.cancelled.is_set() for seen in duo.seen(Role.PREFILL))


async def test_a_prefill_worker_that_dies_after_its_offer_leaves_the_rest_to_decode(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    dies = asyncio.Event()
    duo.prefills[0].handler = offers_early(dies, breaks=True)

    async def patient(worker, seen):
        dies.set()
        return await workers.serve(worker, seen)

    duo.decodes[0].handler = patient
    response, body = await duo.router.complete("hi")
    assert (response.status, body["choices"][0]["text"]) == (200, text_for("hi"))
    assert response.headers["x-tandem-attempts"] == "1"


async def test_a_client_that_goes_ends_the_work_of_both_workers(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    duo.prefills[0].handler = offers_early(asyncio.Event())
    duo.decodes[0].handler = hang
    asked = asyncio.create_task(duo.router.complete("hi"))
    await duo.decodes[0].saw(1)
    asked.cancel()
    for worker in duo.all:
        await asyncio.wait_for(worker.seen[0].cancelled.wait(), 10)
    await duo.prefills[0].saw(2)
    assert duo.prefills[0].seen[1].request.method == "DELETE"


async def test_a_decode_worker_that_fails_ends_the_work_of_prefill(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    duo.prefills[0].handler = offers_early(asyncio.Event())
    duo.decodes[0].handler = answer(400)
    response, _ = await duo.router.complete("hi")
    assert response.status == 400
    await asyncio.wait_for(duo.prefills[0].seen[0].cancelled.wait(), 10)


async def test_an_early_offer_is_checked_like_a_late_one(start_duo):
    duo = await start_duo(prefills=1, decodes=1, attempts=1)
    duo.prefills[0].handler = offers_early(asyncio.Event(), remote_token=...)
    response, body = await duo.router.complete("hi")
    assert (response.status, body["local"]) == (200, True)
    await asyncio.wait_for(duo.prefills[0].seen[0].cancelled.wait(), 10)


async def test_the_trace_of_a_client_goes_on_at_both_workers(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    await duo.router.post("/v1/completions", b'{"prompt": "hi"}', headers=trace)
    for worker in (*duo.prefills, *duo.decodes):
        assert {name: worker.seen[0].headers[name] for name in trace} == trace


async def test_a_chat_is_handed_off_too(start_duo):
    duo = await start_duo()
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9, "stream": True}
    _, raw = await duo.router.post("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True}})
    assert raw.endswith(workers.DONE)
    [prefill] = duo.seen(Role.PREFILL)
    assert prefill.path == "/v1/chat/completions"
    assert prefill.body["max_completion_tokens"] == 1
    assert prefill.body["max_tokens"] == 1
    assert prefill.body["stream"] is False
    assert "stream_options" not in prefill.body
    [decode] = duo.seen(Role.DECODE)
    assert decode.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("inbound", [{"kv_transfer_params": {"do_remote_prefill": True}},
                                     {"vllm_xargs": {"kv_transfer_params": {"a": 1}, "kept": 2}}])  # fmt: skip
async def test_parameters_of_the_client_never_reach_a_worker(start_duo, inbound):
    duo = await start_duo(decodes=1, prefills=0)
    response, body = await duo.router.complete("hi", **inbound)
    assert response.status == 200
    assert body["local"]
    [seen] = duo.decodes[0].seen
    assert "kv_transfer_params" not in json.dumps(seen.body)
    assert seen.body.get("vllm_xargs") in (None, {"kept": 2})
    assert (await duo.router.audited())[0]["stripped"]


@pytest.mark.parametrize(
    "broken", ["remote_request_id", "remote_engine_id", "remote_host", "remote_port", "do_remote_prefill"]
)
async def test_unusable_parameters_never_reach_decode_and_another_prefill_is_asked(start_duo, broken):
    duo = await start_duo(policy="roundRobin")

    async def forgetful(worker, seen):
        return prefill_answer(worker, seen, **{broken: ...})

    for worker in duo.prefills:
        worker.script(forgetful)
    response, body = await duo.router.complete("hi")
    assert response.status == 200
    assert body["choices"][0]["text"] == text_for("hi")
    # Both prefill workers failed, so decode was asked to do it alone.
    assert body["local"]
    assert [seen.body.get("kv_transfer_params") for seen in duo.seen(Role.DECODE)] == [None]
    assert await duo.router.metric('tandem_router_local_prefills_total{reason="prefill_failed"}') == 1
    assert await duo.router.metric(f'tandem_router_bad_handoffs_total{{key="{broken}",target="p-0"}}') == 1


async def test_a_failed_decode_gets_a_fresh_pair_and_parameters_are_never_used_twice(start_duo):
    duo = await start_duo(attempts=3)
    for worker in duo.decodes:
        worker.script(cut)
    response, body = await duo.router.complete("hi")
    assert response.status == 200
    assert body["choices"][0]["text"] == text_for("hi")
    used = [seen.body["kv_transfer_params"]["remote_request_id"] for seen in duo.seen(Role.DECODE)]
    assert len(used) == len(set(used)) == 3
    identities = [seen.headers["X-Request-Id"] for seen in duo.seen(Role.PREFILL) if seen.body]
    assert len(set(identities)) == 3
    assert response.headers["x-tandem-attempts"] == "3"


async def test_kv_that_decode_did_not_take_is_given_back_to_torch_prefill(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    duo.decodes[0].script(answer(400))
    response, _ = await duo.router.complete("hi")
    assert response.status == 400
    await duo.prefills[0].saw(2)
    assert duo.prefills[0].seen[1].request.method == "DELETE"
    assert duo.caches == {}


async def test_kv_is_not_given_back_to_vllm_which_has_no_such_route(start_duo):
    duo = await start_duo(prefills=1, decodes=1, backend="vllm")
    duo.decodes[0].script(answer(400))
    await duo.router.complete("hi")
    await duo.router.complete("again")
    assert [seen.request.method for seen in duo.prefills[0].seen] == ["POST", "POST"]


async def test_without_a_ready_prefill_worker_decode_computes_the_prompt(start_duo):
    duo = await start_duo(prefills=0)
    response, body = await duo.router.complete("hi")
    assert (response.status, body["local"]) == (200, True)
    assert "x-tandem-prefill" not in response.headers
    assert await duo.router.metric('tandem_router_local_prefills_total{reason="no_prefill_ready"}') == 1


async def test_when_every_prefill_worker_fails_decode_computes_the_prompt(start_duo):
    duo = await start_duo(attempts=1)
    for worker in duo.prefills:
        worker.handler = answer(500)
    response, body = await duo.router.complete("hi")
    assert (response.status, body["local"]) == (200, True)


async def test_prefill_workers_that_are_full_are_not_relieved_by_decode(start_duo):
    duo = await start_duo()
    for worker in duo.prefills:
        worker.handler = answer(429, headers={"Retry-After": "7"})
    response, _ = await duo.router.complete("hi")
    assert response.status == 429
    assert response.headers["Retry-After"] == "7"
    assert duo.seen(Role.DECODE) == []
    assert [len(worker.seen) for worker in duo.prefills] == [1, 1]


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_client_error_of_either_leg_is_returned_as_it_is(start_duo, role, status):
    duo = await start_duo()
    told = {"error": {"message": "no such thing", "type": "t", "param": "p", "code": "c"}}
    for worker in duo.all:
        if worker.role is role:
            worker.handler = answer(status, told)
    response, body = await duo.router.complete("hi")
    assert (response.status, body) == (status, told)
    assert len([seen for seen in duo.seen(role) if seen.request.method == "POST"]) == 1


async def test_prefill_that_offers_nothing_leaves_the_prompt_to_decode_at_once(start_duo):
    duo = await start_duo()
    for worker in duo.prefills:
        worker.handler = answer(200, {"choices": [{"finish_reason": "stop"}], "kv_transfer_params": None})
    response, body = await duo.router.complete("hi")
    assert (response.status, body["local"]) == (200, True)
    assert len(duo.seen(Role.PREFILL)) == 1
    assert await duo.router.metric('tandem_router_local_prefills_total{reason="not_offered"}') == 1


async def test_only_workers_of_equal_revision_meet(start_router, start_worker):
    made = [
        await start_worker(f"{role}-{revision}-{index}", role, revision=revision)
        for revision, counts in (("old", (2, 3)), ("new", (1, 1)))
        for role, count in zip((Role.PREFILL, Role.DECODE), counts, strict=True)
        for index in range(count)
    ]
    alone = await start_worker("decode-next-0", Role.DECODE, revision="next")
    router = await start_router(*made, alone)
    answers = [(await router.complete(f"p{index}"))[0] for index in range(60)]
    pairs = {
        (response.headers["x-tandem-prefill"].split("-")[1], response.headers["x-tandem-decode"].split("-")[1])
        for response in answers
    }
    assert pairs == {("old", "old"), ("new", "new")}
    assert alone.seen == []


async def test_a_stream_whose_first_event_is_late_gets_a_fresh_pair(start_duo):
    duo = await start_duo(backend="vllm", decode_first_byte_seconds=0.1, policy="roundRobin")
    duo.decodes[0].script(hang)
    for _ in range(2):
        response, raw = await duo.router.complete("hi", stream=True)
        assert response.status == 200
        assert b"GARBAGE" not in raw
        assert raw.endswith(workers.DONE)
        assert "x-tandem-prefill" in response.headers
    tries = [attempt for line in await duo.router.audited(2) for attempt in line["tries"]]
    assert [attempt["outcome"] for attempt in tries].count("timeout") == 1


async def test_a_queue_longer_than_the_lease_ends_in_a_prefill_by_decode_and_not_in_an_error(start_duo):
    duo = await start_duo(backend="vllm", decodes=1, decode_first_byte_seconds=0.1)

    async def slow_unless_alone(worker, seen):
        return await (workers.serve if "kv_transfer_params" not in seen.body else hang)(worker, seen)

    duo.decodes[0].handler = slow_unless_alone
    response, raw = await duo.router.complete("hi", stream=True)
    assert response.status == 200
    assert raw.endswith(workers.DONE)
    assert len(duo.decodes[0].seen) == 2
    assert await duo.router.metric('tandem_router_local_prefills_total{reason="handoff_late"}') == 1


async def test_a_torch_decode_worker_may_take_its_time_because_it_keeps_the_kv_alive(start_duo):
    duo = await start_duo(decodes=1, decode_first_byte_seconds=0.05)

    async def slow(worker, seen):
        await asyncio.sleep(0.2)
        return await workers.serve(worker, seen)

    duo.decodes[0].handler = slow
    response, raw = await duo.router.complete("hi", stream=True)
    assert (response.status, response.headers["x-tandem-attempts"]) == (200, "1")
    assert raw.endswith(workers.DONE)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("prompt_batch", {"prompt": ["a", "b"]}),
        ("prompt_batch", {"prompt": [[1, 2], [3]]}),
        ("prompt_logprobs", {"echo": True, "logprobs": 1}),
        ("prompt_logprobs", {"prompt_logprobs": 0}),
        ("several_choices", {"n": 2}),
    ],
)
async def test_what_one_handoff_cannot_carry_is_computed_on_decode(start_duo, reason, fields):
    duo = await start_duo(backend="vllm")
    response, _ = await duo.router.post("/v1/completions", {"prompt": "hi", **fields})
    assert response.status == 200
    assert duo.seen(Role.PREFILL) == []
    assert await duo.router.metric(f'tandem_router_local_prefills_total{{reason="{reason}"}}') == 1


@pytest.mark.parametrize("depth", range(900, 1000, 7))
async def test_a_body_at_the_edge_of_what_can_be_nested_is_served_or_refused_but_no_defect(start_duo, depth):
    duo = await start_duo(prefills=1, decodes=1)
    for extra in (b"", b', "kv_transfer_params": {}'):
        raw = b'{"prompt": "x", "a": ' + b"[" * depth + b"]" * depth + extra + b"}"
        response, _ = await duo.router.post("/v1/completions", raw)
        assert response.status in (200, 400)


async def test_generate_has_no_handoff(start_duo):
    duo = await start_duo()
    response, body = await duo.router.post("/generate", {"prompt": "hi"})
    assert response.status == 200
    assert body["worker"].startswith("d-")
    assert duo.seen(Role.PREFILL) == []
