"""Which tokens go into a step: order, budget, slots, memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_serve.engine.scheduler import Scheduler, SchedulerLimits
from tandem_serve.engine.sequence import Sequence, Stage
from tandem_serve.engine.types import RemoteKv, SamplingParams, SequenceRequest


@dataclass
class Room:
    capacity: int


class CountedKv:
    """KV memory that only counts."""

    def __init__(self, capacity: int) -> None:
        self.capacity_tokens = capacity
        self.used_tokens = 0

    def allocate(self, tokens: int) -> Room | None:
        if self.used_tokens + tokens > self.capacity_tokens:
            return None
        self.used_tokens += tokens
        return Room(tokens)

    def free(self, kv: Room) -> None:
        self.used_tokens -= kv.capacity


def scheduler(*, running: int = 4, budget: int = 32, capacity: int = 1000) -> Scheduler:
    return Scheduler(limits=SchedulerLimits(max_running=running, token_budget=budget), kv=CountedKv(capacity))


def sequence(seq_id: int, prompt: int, *, new: int = 4, remote: RemoteKv | None = None) -> Sequence:
    sampling = SamplingParams(max_tokens=new, temperature=0)
    return Sequence(
        SequenceRequest(seq_id=seq_id, request_id="", prompt=(5,) * prompt, sampling=sampling, remote=remote)
    )


def advance(plan: tuple) -> None:
    """What the engine does with a plan, without a model."""
    for chunk in plan:
        chunk.sequence.computed = chunk.start + chunk.count
        if chunk.samples:
            chunk.sequence.tokens.append(7)


def test_decoding_sequences_come_first_and_prefill_fills_the_budget() -> None:
    plans = scheduler(budget=10)
    plans.add(sequence(0, 3))
    plans.admit()
    advance(plans.plan())
    plans.add(sequence(1, 20))
    plans.add(sequence(2, 20))
    plans.admit()
    shown = [(chunk.sequence.seq_id, chunk.start, chunk.count, chunk.samples) for chunk in plans.plan()]
    assert shown == [(0, 3, 1, True), (1, 0, 9, False)]


def test_a_prompt_goes_through_in_chunks_and_samples_once_at_its_end() -> None:
    plans = scheduler(budget=8)
    plans.add(sequence(0, 20))
    plans.admit()
    seen = []
    for _ in range(3):
        plan = plans.plan()
        seen += [(chunk.start, chunk.count, chunk.samples) for chunk in plan]
        advance(plan)
    assert seen == [(0, 8, False), (8, 8, False), (16, 4, True)]


def test_admission_reserves_the_memory_a_sequence_may_ever_need() -> None:
    plans = scheduler(capacity=30)
    plans.add(sequence(0, 10, new=6))
    plans.add(sequence(1, 10, new=6))
    plans.add(sequence(2, 2, new=1))
    assert [one.seq_id for one in plans.admit()] == [0, 1]
    assert plans.kv.used_tokens == 30
    plans.remove(plans.running[0])
    assert [one.seq_id for one in plans.admit()] == [2]


def test_a_waiting_sequence_is_not_overtaken() -> None:
    plans = scheduler(capacity=20)
    plans.add(sequence(0, 15, new=1))
    plans.add(sequence(1, 15, new=1))
    plans.add(sequence(2, 1, new=1))
    assert [one.seq_id for one in plans.admit()] == [0]
    assert [one.seq_id for one in plans.waiting] == [1, 2]


def test_a_sequence_that_waits_for_its_kv_holds_memory_but_no_place_in_the_step() -> None:
    plans = scheduler()
    plans.add(sequence(0, 10, remote=RemoteKv(host="h", port=1, kv_id="k")))
    (admitted,) = plans.admit()
    assert admitted.stage is Stage.PULLING
    assert plans.plan() == ()
    admitted.stage, admitted.computed = Stage.RUNNING, 9
    assert [(chunk.start, chunk.count, chunk.samples) for chunk in plans.plan()] == [(9, 1, True)]


def test_a_budget_below_the_running_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="token budget"):
        SchedulerLimits(max_running=8, token_budget=4)


@given(
    prompts=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 8), st.integers(0, 30)), min_size=1, max_size=25),
    running=st.integers(1, 5),
    budget=st.integers(5, 40),
)
def test_random_histories_keep_every_limit_and_leak_nothing(
    prompts: list[tuple[int, int, int]], running: int, budget: int
) -> None:
    plans = scheduler(running=running, budget=budget, capacity=80)
    arrivals = [(step, sequence(number, size, new=new)) for number, (size, new, step) in enumerate(prompts)]
    finished, step = 0, 0
    while finished < len(arrivals):
        for when, one in arrivals:
            if when == step:
                plans.add(one)
        plans.admit()
        plan = plans.plan()
        assert sum(chunk.count for chunk in plan) <= budget
        assert len(plans.running) <= running
        assert plans.kv.used_tokens <= 80
        advance(plan)
        for chunk in plan:
            if chunk.sequence.generated >= chunk.sequence.request.sampling.max_tokens:
                assert chunk.sequence.computed <= chunk.sequence.reserve
                plans.remove(chunk.sequence)
                finished += 1
        step += 1
        assert step < 3000
    assert plans.kv.used_tokens == 0
    assert not plans.busy
