"""Workers that come and go under constant traffic: no request is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tandem.gateway.fleet import Fleet, Role
from tests.unit.gateway.workers import DONE, answer, event, stream, text_for, text_of

Ask = Callable[[int, int], Awaitable[tuple[int, bool]]]


class Traffic:
    """Clients that ask without a pause, each the next question when it has its answer."""

    def __init__(self, ask: Ask, *, clients: int = 8) -> None:
        self.outcomes: list[tuple[int, bool]] = []
        self._answered = [0] * clients
        self._news = asyncio.Event()
        self._over = False
        self._clients = [asyncio.create_task(self._client(ask, number)) for number in range(clients)]

    async def _client(self, ask: Ask, number: int) -> None:
        while not self._over:
            self.outcomes.append(await ask(number, self._answered[number]))
            self._answered[number] += 1
            self._news.set()

    async def turn(self) -> None:
        """Returns when what runs now is answered, and of every client one question more that it asked after now."""
        wanted = [count + 2 for count in self._answered]
        async with asyncio.timeout(60):
            while any(count < least for count, least in zip(self._answered, wanted, strict=True)):
                self._news.clear()
                news = asyncio.ensure_future(self._news.wait())
                await asyncio.wait((news, *self._clients), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                for client in self._clients:
                    if client.done():
                        client.result()  # none ends by itself, so that it failed

    async def end(self) -> set[tuple[int, bool]]:
        """Lets every client finish; the different outcomes, as (status, right)."""
        self._over = True
        await asyncio.gather(*self._clients)
        return set(self.outcomes)


def streams_and_whole_answers(router) -> Ask:
    """Streams and whole answers in turn."""

    async def ask(number: int, count: int) -> tuple[int, bool]:
        prompt = f"{number}-{count}"
        streamed = count % 2 == 0
        response, body = await router.complete(prompt, stream=streamed)
        text = text_of(body) if streamed else body["choices"][0]["text"]
        wanted = text_for(prompt).replace(" ", "") if streamed else text_for(prompt)
        return response.status, text == wanted

    return ask


async def roll(router, fleet, worker, start_worker, traffic, *, revision=None, announced: bool):
    """Replaces a worker: a new one first, then the old one ends, announced or by a crash."""
    successor = await start_worker(worker.name + "x", worker.role, revision=revision or worker.revision)
    fleet.append(successor)
    router.publish(*fleet)
    await traffic.turn()
    if announced:
        router.view.publish(Fleet.of(w.endpoint(ready=w is not worker) for w in fleet))
        # As real workers do: refuse what is new, end what is running.
        worker.handler = answer(503)
        await traffic.turn()
    await worker.stop()
    if not announced:
        await traffic.turn()
    fleet.remove(worker)
    router.publish(*fleet)


async def test_a_rolling_restart_under_constant_traffic_fails_no_request(start_duo, start_worker):
    duo = await start_duo()
    traffic = Traffic(streams_and_whole_answers(duo.router))
    fleet = list(duo.all)
    for worker in duo.all:
        await roll(duo.router, fleet, worker, start_worker, traffic, announced=True)
    assert await traffic.end() == {(200, True)}


async def test_a_new_revision_takes_over_under_constant_traffic(start_duo, start_worker):
    duo = await start_duo()
    traffic = Traffic(streams_and_whole_answers(duo.router))
    fleet = list(duo.all)
    for worker in (duo.prefills[0], duo.decodes[0], duo.prefills[1], duo.decodes[1]):
        await roll(duo.router, fleet, worker, start_worker, traffic, revision="r2", announced=True)
    assert await traffic.end() == {(200, True)}
    assert {worker.revision for worker in fleet} == {"r2"}
    assert await duo.router.metric('tandem_router_pairs_total{revision="r2"}') > 0


async def test_killed_workers_under_constant_traffic_fail_no_whole_answer(start_router, start_worker):
    made = [await start_worker(f"w-{index}", Role.AGG) for index in range(3)]
    router = await start_router(*made)

    async def ask(number: int, count: int) -> tuple[int, bool]:
        response, body = await router.complete(str(number))
        return response.status, body["choices"][0]["text"] == text_for(str(number))

    traffic = Traffic(ask)
    fleet = list(made)
    for worker in made:
        await roll(router, fleet, worker, start_worker, traffic, announced=False)
    assert await traffic.end() == {(200, True)}


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
