"""The work queue keeps client-go's promises."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kube.queue import Backoff, WorkQueue
from tests.unit.kube.fakes import FakeClock, settle


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    return WorkQueue(clock, backoff=Backoff(base=1, longest=8, jitter=0), chance=lambda: 0.0)


async def test_a_key_added_often_is_handed_out_once(queue: WorkQueue[str]) -> None:
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_is_never_worked_on_twice_at_a_time_and_not_lost_either(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    second = asyncio.create_task(queue.get())
    await settle()
    assert not second.done()
    queue.done("a")
    assert await second == "a"


async def test_done_without_a_new_addition_hands_out_nothing(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.done(await queue.get())
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    waiting.cancel()


async def test_a_waiting_getter_that_is_cancelled_loses_no_key(queue: WorkQueue[str]) -> None:
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settle()
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 30) == "a"


async def test_delayed_keys_come_in_time_and_the_earliest_wish_counts(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 3)
    queue.add_after("a", 5)
    await clock.advance(2.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(30)
    assert len(queue) == 0, "later wishes were dropped"


async def test_failures_in_a_row_wait_longer_up_to_a_bound(queue: WorkQueue[str]) -> None:
    assert [queue.add_failed("a") for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    assert queue.add_failed("b") == 1, "each key has its own row"
    queue.succeeded("a")
    assert queue.add_failed("a") == 1
    assert queue.add_failed("a", at_least=30) == 30


async def test_jitter_shortens_the_wait(clock: FakeClock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock, backoff=Backoff(base=10, jitter=0.2), chance=lambda: 0.5)
    assert queue.add_failed("a") == pytest.approx(9)


async def test_forget_calls_off_what_was_delayed(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_failed("a")
    queue.forget("a")
    await clock.advance(100)
    assert len(queue) == 0
    assert queue.add_failed("a") == 1


async def test_age_is_that_of_the_key_that_waits_longest(queue: WorkQueue[str], clock: FakeClock) -> None:
    assert queue.oldest_age == 0
    queue.add("a")
    await clock.advance(5)
    queue.add("b")
    await clock.advance(1)
    assert queue.oldest_age == 6
    await queue.get()
    assert queue.oldest_age == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4))
def test_whatever_happens_every_addition_is_followed_by_work_and_keys_never_overlap(seed: int, workers: int) -> None:
    asyncio.run(_random_run(random.Random(seed), workers))


async def _random_run(chance: random.Random, workers: int) -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock, chance=chance.random)
    busy: set[str] = set()
    dirty: set[str] = set()

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in busy, "two workers have the same key"
            busy.add(key)
            dirty.discard(key)
            await clock.sleep(chance.random())
            if chance.random() < 0.3:
                queue.add_failed(key)
            busy.remove(key)
            queue.done(key)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    for _ in range(60):
        key = chance.choice("abcd")
        if chance.random() < 0.7:
            dirty.add(key)
            queue.add(key)
        else:
            queue.add_after(key, chance.random() * 3)
        await clock.advance(chance.random() * 0.5)
    for _ in range(400):
        await clock.advance(1)
        if not dirty and not busy and not len(queue):
            break
    assert not dirty, "an addition was never followed by work"
    assert all(not task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
