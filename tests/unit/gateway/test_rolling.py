"""Workers that come and go under constant traffic: no request is lost."""

from __future__ import annotations

import asyncio
import itertools

from tandem.gateway.fleet import Fleet, Role
from tests.unit.gateway.workers import DONE, answer, event, stream, text_for, text_of


async def constant_traffic(router, *, clients: int, until: asyncio.Event):
    """Asks without a pause, streams and whole answers in turn; every answer, as (status, right)."""
    outcomes = []

    async def client(number: int):
        for count in itertools.count():
            if until.is_set():
                return
            prompt = f"{number}-{count}"
            streamed = count % 2 == 0
            response, body = await router.complete(prompt, stream=streamed)
            text = text_of(body) if streamed else body["choices"][0]["text"]
            wanted = text_for(prompt).replace(" ", "") if streamed else text_for(prompt)
            outcomes.append((response.status, text == wanted))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return outcomes


async def roll(router, fleet, worker, start_worker, *, revision=None, announced: bool):
    """Replaces a worker: a new one first, then the old one ends, announced or by a crash."""
    successor = await start_worker(worker.name + "x", worker.role, revision=revision or worker.revision)
    fleet.append(successor)
    router.publish(*fleet)
    await asyncio.sleep(0.02)
    if announced:
        router.view.publish(Fleet.of(w.endpoint(ready=w is not worker) for w in fleet))
        # As real workers do: refuse what is new, end what is running.
        worker.handler = answer(503)
        await asyncio.sleep(0.05)
    await worker.stop()
    if not announced:
        await asyncio.sleep(0.05)
    fleet.remove(worker)
    router.publish(*fleet)


async def test_a_rolling_restart_under_constant_traffic_fails_no_request(start_duo, start_worker):
    duo = await start_duo()
    over = asyncio.Event()
    traffic = asyncio.create_task(constant_traffic(duo.router, clients=8, until=over))
    fleet = list(duo.all)
    for worker in duo.all:
        await roll(duo.router, fleet, worker, start_worker, announced=True)
    over.set()
    outcomes = await traffic
    assert len(outcomes) > 50
    assert set(outcomes) == {(200, True)}


async def test_a_new_revision_takes_over_under_constant_traffic(start_duo, start_worker):
    duo = await start_duo()
    over = asyncio.Event()
    traffic = asyncio.create_task(constant_traffic(duo.router, clients=8, until=over))
    fleet = list(duo.all)
    for worker in (duo.prefills[0], duo.decodes[0], duo.prefills[1], duo.decodes[1]):
        await roll(duo.router, fleet, worker, start_worker, revision="r2", announced=True)
    over.set()
    assert set(await traffic) == {(200, True)}
    assert {worker.revision for worker in fleet} == {"r2"}
    assert await duo.router.metric('tandem_router_pairs_total{revision="r2"}') > 0


async def test_killed_workers_under_constant_traffic_fail_no_whole_answer(start_router, start_worker):
    made = [await start_worker(f"w-{index}", Role.AGG) for index in range(3)]
    router = await start_router(*made)
    over = asyncio.Event()
    outcomes = []

    async def client(number: int):
        while not over.is_set():
            response, body = await router.complete(str(number))
            outcomes.append((response.status, body["choices"][0]["text"] == text_for(str(number))))

    traffic = asyncio.gather(*(client(number) for number in range(8)))
    fleet = list(made)
    for worker in made:
        await roll(router, fleet, worker, start_worker, announced=False)
    over.set()
    await traffic
    assert len(outcomes) > 50
    assert set(outcomes) == {(200, True)}


async def test_requests_spread_evenly_by_what_is_in_flight(start_router, start_worker):
    made = [await start_worker(f"w-{index}", Role.AGG) for index in range(4)]
    router = await start_router(*made, policy="leastLoaded")
    release = asyncio.Event()

    async def slow(worker, seen):
        async with stream(seen) as response:
            await response.write(event("a"))
            await release.wait()
            await response.write(DONE)
            return response

    for worker in made:
        worker.handler = slow
    requests = [asyncio.create_task(router.complete("x", stream=True)) for _ in range(20)]
    for worker in made:
        await worker.saw(5)
    assert [len(worker.seen) for worker in made] == [5, 5, 5, 5]
    release.set()
    assert all([(await request)[0].status == 200 for request in requests])


async def test_equal_prefixes_meet_on_one_worker(start_router, start_worker):
    made = [await start_worker(f"w-{index}", Role.AGG) for index in range(4)]
    router = await start_router(*made, policy="prefixAffinity")
    for index in range(12):
        await router.complete("the same long system prompt" * 100 + str(index))
    assert sorted(len(worker.seen) for worker in made) == [0, 0, 0, 12]
