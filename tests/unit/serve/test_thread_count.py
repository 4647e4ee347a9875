"""How many threads steps run on, with times that the test says."""

from __future__ import annotations

from collections.abc import Callable

from tandem_serve.engine.thread_count import ThreadCount

Times = Callable[[int, int], float]
"""Seconds of a step by threads and tokens."""


def run(count: ThreadCount, times: Times, *, steps: int, tokens: int = 8) -> list[int]:
    """The threads of each step."""
    chosen = []
    for _ in range(steps):
        chosen.append(count.choose(tokens))
        count.took(tokens, times(chosen[-1], tokens))
    return chosen


def idle(threads: int, tokens: int) -> float:
    return (tokens + 16) / (1 + 0.4 * (threads - 1))


def busy(threads: int, tokens: int) -> float:
    return (tokens + 16) * (1 if threads == 1 else 7)


def test_on_idle_cpus_steps_soon_run_on_all() -> None:
    count = ThreadCount(4, lambda _: 1)
    run(count, idle, steps=60)
    assert run(count, idle, steps=100).count(4) > 80, "the others are trials"


def test_beside_busy_neighbours_steps_soon_run_on_one() -> None:
    count = ThreadCount(2, lambda _: 2)
    run(count, busy, steps=14)
    assert run(count, busy, steps=100).count(1) > 90, "the others are trials"


def test_neighbours_that_come_later_are_noticed_within_a_few_steps() -> None:
    count = ThreadCount(2, lambda _: 2)
    run(count, idle, steps=5000)
    assert run(count, busy, steps=30).count(2) <= 6


def test_that_neighbours_went_is_noticed_in_time() -> None:
    count = ThreadCount(2, lambda _: 2)
    run(count, busy, steps=5000)
    run(count, idle, steps=520)
    assert run(count, idle, steps=20).count(2) > 12


def test_trials_become_rare_where_they_change_nothing() -> None:
    count = ThreadCount(2, lambda _: 1)
    chosen = run(count, busy, steps=5000)
    assert chosen.count(2) < 50
    assert chosen[-600:].count(2) >= 1, "they never end"


def test_a_trial_that_takes_far_longer_ends_early() -> None:
    chosen = run(ThreadCount(2, lambda _: 1), lambda threads, _: 1.0 if threads == 1 else 100.0, steps=100)
    assert chosen.count(2) == 3, "one step each"


def test_one_slow_step_changes_nothing() -> None:
    count = ThreadCount(2, lambda _: 2)
    run(count, idle, steps=100)
    count.took(8, 10 * idle(2, 8))
    assert run(count, idle, steps=60).count(2) >= 54, "one trial"


def test_differences_of_chance_change_nothing() -> None:
    chosen = run(ThreadCount(2, lambda _: 1), lambda threads, _: 1.0 if threads == 1 else 0.97, steps=5000)
    assert chosen.count(2) < 100, "trials only"


def test_steps_of_other_sizes_are_judged_alone() -> None:
    count = ThreadCount(2, lambda _: 1)
    for _ in range(100):
        run(count, busy, steps=1)
        run(count, idle, steps=1, tokens=500)
    chosen = {tokens: run(count, times, steps=100, tokens=tokens) for tokens, times in ((8, busy), (500, idle))}
    assert chosen[8].count(1) > 90
    assert chosen[500].count(2) > 80


def test_steps_of_like_sizes_are_compared_by_what_their_tokens_cost() -> None:
    count = ThreadCount(2, lambda _: 2)
    chosen = [run(count, idle, steps=1, tokens=tokens)[0] for tokens in [64, 127] * 200]
    assert chosen.count(2) > 360, "the others are trials"


def test_steps_of_a_new_size_begin_as_the_nearest_that_was_tried() -> None:
    count = ThreadCount(2, lambda _: 1)
    run(count, idle, steps=50)
    assert count.choose(1) == 2


def test_one_cpu_leaves_nothing_to_choose() -> None:
    assert set(run(ThreadCount(1, lambda _: 4), idle, steps=2000)) == {1}
