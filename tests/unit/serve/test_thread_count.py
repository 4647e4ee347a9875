"""How many threads steps run on. Times are the test's: a step takes 10 ms on CPUs of its own, 70 ms on others'."""

from __future__ import annotations

from tandem_serve.engine.thread_count import ThreadCount


def run(count: ThreadCount, *, free: int, seconds: float, tokens: int = 8) -> list[int]:
    """The threads of each step on a machine where so many CPUs are free."""
    chosen = []
    while seconds > 0:
        threads = count.choose(tokens)
        alone = threads <= free
        took = 0.01 if alone else 0.07
        count.took(threads, seconds=took, cpu_seconds=took * threads * (0.97 if alone else 0.5))
        chosen.append(threads)
        seconds -= took
    return chosen


def test_steps_run_on_as_many_threads_as_they_are_worth() -> None:
    count = ThreadCount(8, lambda tokens: tokens)
    assert [count.choose(tokens) for tokens in (1, 5, 100)] == [1, 5, 8]
    assert ThreadCount(8, lambda _: 0).choose(1) == 1
    assert set(run(count, free=8, seconds=60, tokens=8)) == {8}


def test_the_step_after_a_disturbed_one_runs_on_half_as_many() -> None:
    assert run(ThreadCount(8, lambda _: 8), free=2, seconds=0.25)[:4] == [8, 4, 2, 2]


def test_beside_a_neighbour_that_stays_trials_become_rare() -> None:
    count = ThreadCount(2, lambda _: 2)
    run(count, free=1, seconds=30)
    chosen = run(count, free=1, seconds=64)
    assert 3 <= chosen.count(2) <= 6, "one step each 12.8 seconds"


def test_when_the_neighbour_goes_all_cpus_are_used_again() -> None:
    count = ThreadCount(8, lambda _: 8)
    run(count, free=1, seconds=0.5)
    run(count, free=8, seconds=15)
    assert set(run(count, free=8, seconds=5)) == {8}


def test_one_disturbance_costs_a_short_pause_only() -> None:
    count = ThreadCount(2, lambda _: 2)
    for _ in range(3):
        run(count, free=1, seconds=0.01)
        chosen = run(count, free=2, seconds=2)
        assert chosen.count(1) <= 12, "0.1 seconds"
        assert chosen[0] == 1


def test_disturbances_in_short_order_make_pauses_longer() -> None:
    count = ThreadCount(2, lambda _: 2)
    lost = []
    for _ in range(3):
        run(count, free=1, seconds=0.01)
        lost.append(run(count, free=2, seconds=0.3).count(1))
    assert lost == sorted(lost)
    assert lost[-1] > 2 * lost[0]


def test_steps_on_one_thread_tell_nothing_of_others() -> None:
    count = ThreadCount(2, lambda tokens: 1 if tokens < 100 else 2)
    run(count, free=0, seconds=1)
    assert count.choose(500) == 2
