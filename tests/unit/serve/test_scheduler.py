"""Which tokens go into a step: order, budget, slots, memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_serve.engine.blocks import BLOCK_TOKENS, BlockPool
from tandem_serve.engine.scheduler import Chunk, Scheduler, SchedulerLimits
from tandem_serve.engine.sequence import Sequence, Stage
from tandem_serve.engine.types import RemoteKv, SamplingParams, SequenceRequest


def scheduler(*, running: int = 4, budget: int = 32, blocks: int = 64, reuse: bool = True) -> Scheduler:
    limits = SchedulerLimits(max_running=running, token_budget=budget, prefix_reuse=reuse)
    return Scheduler(limits=limits, blocks=BlockPool(blocks))


def sequence(
    seq_id: int,
    prompt: int | tuple[int, ...],
    *,
    new: int = 4,
    request_id: str = "",
    remote: RemoteKv | None = None,
) -> Sequence:
    """A number of tokens stands for a prompt that no other sequence has."""
    tokens = (seq_id + 5,) * prompt if isinstance(prompt, int) else prompt
    sampling = SamplingParams(max_tokens=new, temperature=0)
    return Sequence(
        SequenceRequest(seq_id=seq_id, request_id=request_id, prompt=tokens, sampling=sampling, remote=remote)
    )


def advance(plans: Scheduler, plan: tuple[Chunk, ...]) -> None:
    """What the engine does with a plan, without a model."""
    for chunk in plan:
        plans.computed(chunk)
        if chunk.samples:
            chunk.sequence.tokens.append(7)


def test_decoding_sequences_come_first_and_prefill_fills_the_budget() -> None:
    plans = scheduler(budget=10)
    plans.add(sequence(0, 3))
    plans.admit()
    advance(plans, plans.plan())
    plans.add(sequence(1, 20))
    plans.add(sequence(2, 20))
    plans.admit()
    assert shown(plans.plan()) == [(0, 3, 1, True), (1, 0, 5, False), (2, 0, 4, False)]


def shown(plan: tuple[Chunk, ...]) -> list[tuple[int, int, int, bool]]:
    return [(chunk.sequence.seq_id, chunk.start, chunk.count, chunk.samples) for chunk in plan]


def test_a_short_prompt_does_not_wait_for_a_long_one_and_the_long_one_goes_on() -> None:
    plans = scheduler(budget=32)
    for one in (sequence(0, 200), sequence(1, 100), sequence(2, 10)):
        plans.add(one)
    plans.admit()
    assert shown(plans.plan()) == [(0, 0, 16, False), (2, 0, 10, True), (1, 0, 6, False)]


def test_prefill_beside_decoding_sequences_has_its_own_limit() -> None:
    plans = scheduler(budget=32)
    plans.add(sequence(0, 3))
    plans.admit()
    advance(plans, plans.plan(prefill_room=2))
    plans.add(sequence(1, 30))
    plans.admit()
    assert shown(plans.plan(prefill_room=2)) == [(0, 3, 1, True), (1, 0, 2, False)]


def test_a_prompt_goes_through_in_chunks_and_samples_once_at_its_end() -> None:
    plans = scheduler(budget=8)
    plans.add(sequence(0, 20))
    plans.admit()
    seen = []
    for _ in range(3):
        plan = plans.plan()
        seen += [(chunk.start, chunk.count, chunk.samples) for chunk in plan]
        advance(plans, plan)
    assert seen == [(0, 8, False), (8, 8, False), (16, 4, True)]


def test_admission_reserves_the_memory_a_sequence_may_ever_need() -> None:
    plans = scheduler(blocks=4)
    plans.add(sequence(0, 10, new=23))
    plans.add(sequence(1, 10, new=23))
    plans.add(sequence(2, 2, new=1))
    assert [one.seq_id for one in plans.admit()] == [0, 1]
    assert plans.blocks.used == 4
    plans.remove(plans.running[0])
    assert [one.seq_id for one in plans.admit()] == [2]


def test_a_waiting_sequence_is_not_overtaken() -> None:
    plans = scheduler(blocks=3)
    plans.add(sequence(0, 32, new=1))
    plans.add(sequence(1, 32, new=1))
    plans.add(sequence(2, 1, new=1))
    assert [one.seq_id for one in plans.admit()] == [0]
    assert len(plans.waiting) == 2
    plans.remove(plans.running[0])
    assert [one.seq_id for one in plans.admit()] == [1, 2]


def test_a_request_with_many_sequences_lets_later_requests_pass_one_for_one() -> None:
    plans = scheduler(running=1)
    for number in range(4):
        plans.add(sequence(number, 2, request_id="many"))
    for number in (4, 5):
        plans.add(sequence(number, 2, request_id=f"single-{number}"))
    order = []
    while plans.busy:
        order += [one.seq_id for one in plans.admit()]
        plans.remove(plans.running[0])
    assert order == [0, 1, 4, 2, 5, 3]


def test_sequences_of_one_request_stay_in_order() -> None:
    plans = scheduler(running=1)
    order = []
    for number in range(6):
        plans.add(sequence(number, 2, request_id="same"))
        if number % 2:
            order += [one.seq_id for one in plans.admit()]
            plans.remove(plans.running[0])
    while plans.busy:
        order += [one.seq_id for one in plans.admit()]
        plans.remove(plans.running[0])
    assert order == [0, 1, 2, 3, 4, 5]


LONG = tuple(range(100, 100 + 4 * BLOCK_TOKENS))


def prefilled(plans: Scheduler, one: Sequence) -> None:
    """Runs a sequence until its prompt is computed."""
    plans.add(one)
    plans.admit()
    while one.remaining > 1 or not one.generated:
        advance(plans, plans.plan())


def test_a_known_beginning_is_not_computed_again_but_for_the_last_token() -> None:
    plans = scheduler(budget=100)
    prefilled(plans, sequence(0, LONG))
    plans.add(sequence(1, LONG))
    plans.add(sequence(2, (*LONG, 7, 8)))
    plans.admit()
    assert shown(plans.plan())[1:] == [(1, 48, 16, True), (2, 64, 2, True)]
    assert plans.reused_tokens == 48 + 64
    assert plans.blocks.used == 5 + 2 + 1


def test_what_a_sequence_has_generated_is_known_too_and_outlives_it() -> None:
    plans = scheduler(budget=100)
    one = sequence(0, LONG[:-1], new=20)
    prefilled(plans, one)
    while one.generated < 20:
        advance(plans, plans.plan())
    plans.remove(one)
    assert plans.blocks.used == 0
    plans.add(sequence(1, (*one.tokens, 9)))
    plans.admit()
    assert shown(plans.plan()) == [(1, 80, 4, True)]


def test_another_beginning_with_the_same_block_is_not_taken_for_it() -> None:
    plans = scheduler(budget=100)
    prefilled(plans, sequence(0, LONG))
    plans.add(sequence(1, (1,) * BLOCK_TOKENS + LONG[BLOCK_TOKENS:]))
    plans.admit()
    assert shown(plans.plan())[1:] == [(1, 0, 64, True)]


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    plans = scheduler(budget=100)
    for number in range(3):
        plans.add(sequence(number, LONG))
    plans.admit()
    plan = plans.plan()
    assert shown(plan) == [(0, 0, 64, True)]
    advance(plans, plan)
    assert shown(plans.plan())[1:] == [(1, 48, 16, True), (2, 48, 16, True)]


def test_without_reuse_everything_is_computed() -> None:
    plans = scheduler(budget=200, reuse=False)
    for number in range(2):
        plans.add(sequence(number, LONG))
    plans.admit()
    assert shown(plans.plan()) == [(0, 0, 64, True), (1, 0, 64, True)]


def test_the_last_sequence_of_a_request_may_go_before_the_first() -> None:
    plans = scheduler(running=1)
    first, last, other = (sequence(number, 4, request_id=name) for number, name in enumerate("aab"))
    for one in (first, last, other):
        plans.add(one)
    plans.remove(last)
    assert plans.admit() == [first]
    plans.remove(first)
    assert plans.admit() == [other]


REMOTE = RemoteKv(host="h", port=1, kv_id="k", token="t", lease_seconds=30)


def test_a_sequence_that_waits_for_its_kv_holds_memory_but_no_place_in_the_step() -> None:
    plans = scheduler()
    plans.add(sequence(0, 30, remote=REMOTE))
    (admitted,) = plans.admit()
    assert (admitted.stage, admitted.pull_from) == (Stage.PULLING, 0)
    assert plans.plan() == ()
    admitted.stage, admitted.computed = Stage.RUNNING, 29
    assert [(chunk.start, chunk.count, chunk.samples) for chunk in plans.plan()] == [(29, 1, True)]


def test_of_a_prompt_that_is_partly_in_memory_only_the_rest_is_fetched() -> None:
    plans = scheduler(budget=200)
    plans.add(sequence(0, LONG[:33]))
    plans.admit()
    advance(plans, plans.plan())
    plans.add(sequence(1, LONG, remote=REMOTE))
    plans.add(sequence(2, LONG[:40], remote=REMOTE))
    partly, wholly = plans.admit()
    assert (partly.stage, partly.pull_from) == (Stage.PULLING, 32)
    assert (wholly.stage, wholly.pull_from) == (Stage.RUNNING, None)


def test_a_budget_below_the_running_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="token budget"):
        SchedulerLimits(max_running=8, token_budget=4)


@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 8), st.integers(0, 30), st.integers(0, 2)),
        min_size=1,
        max_size=25,
    ),
    running=st.integers(1, 5),
    budget=st.integers(5, 40),
)
def test_random_histories_keep_every_limit_and_leak_nothing(
    prompts: list[tuple[int, int, int, int]], running: int, budget: int
) -> None:
    plans = scheduler(running=running, budget=budget, blocks=6)
    arrivals = [
        (step, sequence(number, (text,) * size, new=new, request_id=str(number // 3)))
        for number, (size, new, step, text) in enumerate(prompts)
    ]
    finished, step = 0, 0
    while finished < len(arrivals):
        for when, one in arrivals:
            if when == step:
                plans.add(one)
        plans.admit()
        plan = plans.plan()
        assert sum(chunk.count for chunk in plan) <= budget
        assert len(plans.running) <= running
        assert plans.blocks.used <= 6
        advance(plans, plan)
        for chunk in plan:
            if chunk.sequence.generated >= chunk.sequence.request.sampling.max_tokens:
                assert chunk.sequence.computed <= chunk.sequence.reserve
                plans.remove(chunk.sequence)
                finished += 1
        step += 1
        assert step < 3000
    assert plans.blocks.used == 0
    assert not plans.busy
