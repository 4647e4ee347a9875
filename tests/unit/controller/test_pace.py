"""What others keep undoing is done again ever more rarely."""

from __future__ import annotations

import itertools

from tandem.controller.pace import FORGOTTEN_AFTER_SECONDS, FREE, LONGEST_SECONDS, Pace


def done(pace: Pace[str], now: float, *, key: str = "a", aim: str = "x") -> bool:
    return pace.wait(key, aim, now) == 0


def test_the_first_times_are_at_once() -> None:
    pace: Pace[str] = Pace()
    assert all(done(pace, 0.0) for _ in range(FREE))
    assert not done(pace, 0.0)


def test_further_times_wait_twice_as_long_each() -> None:
    pace: Pace[str] = Pace()
    assert all(done(pace, 0.0) for _ in range(FREE))
    made = [0.0] + [half / 2 for half in range(1, 1_000) if done(pace, half / 2)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(made)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, LONGEST_SECONDS]
    assert set(pauses[7:]) == {LONGEST_SECONDS}


def test_the_time_that_is_left_is_told() -> None:
    pace: Pace[str] = Pace()
    for _ in range(FREE):
        pace.wait("a", "x", 0.0)
    assert pace.wait("a", "x", 0.25) == 0.75


def test_another_aim_and_another_thing_begin_anew() -> None:
    pace: Pace[str] = Pace()
    assert all(done(pace, 0.0, aim=f"{number}") for number in range(30))
    assert all(done(pace, 0.0, key=f"{number}") for number in range(30))


def test_a_fight_begins_after_the_free_times_and_is_forgotten_in_the_end() -> None:
    pace: Pace[str] = Pace()
    assert all(done(pace, 0.0) for _ in range(FREE))
    assert pace.contested("a", 0.0) == 0
    assert done(pace, 1.0)
    assert pace.contested("a", 1.0) == FORGOTTEN_AFTER_SECONDS
    over = 1.0 + FORGOTTEN_AFTER_SECONDS + 1
    assert pace.contested("a", over) == 0
    assert all(done(pace, over) for _ in range(FREE))
