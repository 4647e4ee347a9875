"""Failures of single workers that the client never hears of, and those that it must."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

import pytest

from tandem.gateway.fleet import Fleet, Role
from tests.unit.gateway import workers
from tests.unit.gateway.workers import answer, cut, hang, text_for


@pytest.fixture
async def trio(start_router, start_worker):
    """Three aggregated workers, asked in turn."""
    made = [await start_worker(f"w-{index}", Role.AGG) for index in range(3)]
    return await start_router(*made, policy="roundRobin")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (answer(429), "status_429"),
        (answer(500), "status_500"),
        (answer(502), "status_502"),
        (answer(503, headers={"Retry-After": "5"}), "status_503"),
        (answer(504), "status_504"),
        (cut, "reset"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_one_failing_worker_is_invisible(trio, failure, reason, stream):
    trio.workers[0].handler = failure
    trio.workers[1].handler = failure
    for _ in range(6):
        response, body = await trio.complete("hi", stream=stream)
        assert response.status == 200
        assert body.endswith(workers.DONE) if stream else body["choices"][0]["text"] == text_for("hi")
    assert await trio.metric(f'tandem_router_retries_total{{reason="{reason}"}}') >= 2
    assert len(trio.pauses) >= 2
    assert all(0 < pause < 0.2 for pause in trio.pauses)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 413, 422, 501])
async def test_what_is_the_requests_own_fault_is_not_tried_again(trio, status):
    for worker in trio.workers:
        worker.handler = answer(status)
    response, body = await trio.complete("hi")
    assert response.status == status
    assert body["error"]["message"] == f"status {status}"
    assert sum(len(worker.seen) for worker in trio.workers) == 1


async def test_a_worker_that_says_no_retry_is_believed(trio):
    for worker in trio.workers:
        worker.handler = answer(504, headers={"x-should-retry": "false"})
    response, _ = await trio.complete("hi")
    assert (response.status, response.headers["x-should-retry"]) == (504, "false")
    assert sum(len(worker.seen) for worker in trio.workers) == 1


@pytest.mark.parametrize(
    ("status", "outcome"), [(429, "overloaded"), (504, "timeout"), (413, "client_error"), (500, "worker_error")]
)
async def test_an_error_that_is_passed_on_is_told_by_its_kind_and_what_was_not_tried_is_no_retry(
    start_router, start_worker, status, outcome
):
    worker = await start_worker("w-0", Role.AGG)
    worker.handler = answer(status, headers={"x-should-retry": "false"} if status == 504 else {})
    router = await start_router(worker)
    response, _ = await router.complete("hi")
    (line,) = await router.audited()
    assert (response.status, line["outcome"]) == (status, outcome)
    tried_again = len(worker.seen) - 1
    assert await router.metric(f'tandem_router_retries_total{{reason="status_{status}"}}') == tried_again


async def test_attempts_are_bounded_and_the_last_error_is_returned_with_its_retry_after(trio):
    for worker in trio.workers:
        worker.handler = answer(503, headers={"Retry-After": "9"})
    response, body = await trio.complete("hi")
    assert (response.status, response.headers["Retry-After"]) == (503, "9")
    assert body["error"]["code"] == 503
    assert [len(worker.seen) for worker in trio.workers] == [1, 1, 1]


@pytest.mark.parametrize("status", [101, 600, 999])
async def test_a_status_that_nobody_can_be_answered_with_is_tried_elsewhere(trio, status):
    for worker in trio.workers:
        worker.script(answer(status, {}))
    response, _ = await trio.complete("hi")
    assert response.status == 502 if response.headers["x-tandem-attempts"] == "3" else response.status == 200
    assert (await trio.complete("hi"))[0].status == 200


async def test_an_error_page_that_is_not_json_is_put_into_the_openai_form(trio):
    async def page(worker, seen):
        return workers.web.Response(status=500, text="Internal Server Error")

    for worker in trio.workers:
        worker.handler = page
    response, body = await trio.complete("hi")
    assert response.status == 500
    assert body["error"]["message"] == "Internal Server Error"
    assert body["error"]["request_id"] == response.headers["x-request-id"]


async def test_a_killed_worker_costs_one_attempt_and_is_then_left_alone(trio):
    await trio.workers[0].stop()
    attempts = []
    for _ in range(12):
        response, _ = await trio.complete("hi")
        assert response.status == 200
        attempts.append(int(response.headers["x-tandem-attempts"]))
    assert sorted(attempts) == [1] * 11 + [2]
    assert await trio.metric('tandem_router_resting{role="agg",target="w-0"}') == 1


async def test_a_host_that_answers_nothing_costs_one_slow_attempt(start_router, start_worker):
    alive = await start_worker("w-1", Role.AGG)
    with socket.socket() as silent:
        # A full backlog: the kernel drops what else wants to connect, as a lost host would.
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        filling = [socket.socket() for _ in range(4)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(silent.getsockname())
        lost = await start_worker("w-0", Role.AGG)
        router = await start_router(lost, alive, policy="roundRobin", connect_seconds=0.2)
        gone = dataclasses.replace(lost.endpoint(), port=silent.getsockname()[1])
        router.view.publish(Fleet.of([gone, alive.endpoint()]))
        answers = [(await router.complete("hi"))[0] for _ in range(6)]
        for each in filling:
            each.close()
    assert {response.status for response in answers} == {200}
    assert sorted(response.headers["x-tandem-attempts"] for response in answers) == ["1"] * 5 + ["2"]
    assert await router.metric('tandem_router_attempts_total{outcome="connect",role="agg",target="w-0"}') == 1


async def test_the_only_worker_is_asked_even_while_it_rests(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker)
    await worker.stop()
    response, body = await router.complete("hi")
    assert response.status == 503
    assert "w-0" in body["error"]["message"]
    await worker.start()
    assert (await router.complete("hi"))[0].status == 200


async def test_a_decode_worker_that_is_gone_is_a_503_with_a_time_to_come_back(start_duo):
    duo = await start_duo(prefills=1, decodes=1)
    await duo.decodes[0].stop()
    response, body = await duo.router.complete("hi")
    assert (response.status, response.headers["Retry-After"]) == (503, "2")
    assert body["error"]["code"] == "no_worker_reached"


async def test_a_worker_that_broke_the_request_off_is_a_502_also_when_it_is_gone_then(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker)

    async def dies(worker, seen):
        seen.request.transport.abort()
        await worker.stop()

    worker.handler = dies
    response, body = await router.complete("hi")
    assert (response.status, body["error"]["code"]) == (502, "worker_failed")


async def test_a_worker_that_becomes_ready_again_is_used_at_once(trio):
    await trio.workers[0].stop()
    for _ in range(3):
        await trio.complete("hi")
    assert await trio.metric('tandem_router_resting{role="agg",target="w-0"}') == 1
    trio.view.publish(Fleet.of([trio.workers[0].endpoint(ready=False), *(w.endpoint() for w in trio.workers[1:])]))
    await trio.workers[0].start()
    trio.publish(*trio.workers)
    assert await trio.metric('tandem_router_resting{role="agg",target="w-0"}') == 0


async def test_a_reset_of_a_reused_connection_is_tried_again_on_the_only_worker(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    router = await start_router(worker)
    await router.complete("hi")
    worker.script(cut, cut)
    response, _ = await router.complete("hi")
    assert response.status == 200
    assert response.headers["x-tandem-attempts"] == "3"


async def test_a_whole_answer_that_breaks_off_is_tried_again(trio):
    async def half(worker, seen):
        response = workers.web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
        await response.prepare(seen.request)
        await response.write(b'{"choices": [')
        seen.request.transport.abort()
        return response

    trio.workers[0].handler = trio.workers[1].handler = half
    for _ in range(3):
        response, body = await trio.complete("hi")
        assert response.status == 200
        assert body["choices"][0]["text"] == text_for("hi")


async def test_nobody_in_time_is_a_504_that_asks_for_no_retry(start_router, start_worker):
    worker = await start_worker("w-0", Role.AGG)
    worker.handler = hang
    router = await start_router(worker, request_seconds=0.2)
    response, body = await router.complete("hi")
    assert (response.status, response.headers["x-should-retry"]) == (504, "false")
    assert body["error"]["type"] == "timeout"
    await asyncio.wait_for(worker.seen[0].cancelled.wait(), 5)


async def test_without_a_ready_worker_the_503_says_which_role_is_missing(start_router, start_worker):
    prefill = await start_worker("p-0", Role.PREFILL)
    decode = await start_worker("d-0", Role.DECODE)
    router = await start_router(prefill, decode)
    router.view.publish(Fleet.of([prefill.endpoint(), decode.endpoint(ready=False)]))
    response, body = await router.complete("hi")
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "no decode worker of d is ready" in body["error"]["message"]
    assert "prefill r1: 1/1" in body["error"]["message"]
    assert "decode r1: 0/1" in body["error"]["message"]


async def test_a_worker_that_is_not_ready_any_more_gets_nothing_new_and_finishes_what_it_has(trio):
    release = asyncio.Event()

    async def slow(worker, seen):
        await release.wait()
        return await workers.serve(worker, seen)

    for worker in trio.workers:
        worker.handler = slow
    first = asyncio.create_task(trio.complete("first"))
    await asyncio.wait([asyncio.create_task(w.arrived.wait()) for w in trio.workers], return_when="FIRST_COMPLETED")
    busy = next(worker for worker in trio.workers if worker.seen)
    others = [worker for worker in trio.workers if worker is not busy]
    trio.view.publish(Fleet.of([busy.endpoint(ready=False), *(worker.endpoint() for worker in others)]))
    release.set()
    for _ in range(6):
        response, _ = await trio.complete("more")
        assert response.status == 200
    assert (await first)[0].status == 200
    assert len(busy.seen) == 1


async def test_gone_workers_leave_no_metrics_behind(trio):
    for _ in range(3):
        await trio.complete("hi")
    assert await trio.metric('tandem_router_attempts_total{outcome="ok",role="agg",target="w-0"}') == 1
    trio.publish(*trio.workers[1:])
    async with trio.client.get(trio.url + "/metrics") as response:
        assert "w-0" not in await response.text()
