"""Workers that could not be reached rest, and are tried again by one request at a time."""

from __future__ import annotations

import pytest

from tandem.gateway.circuit import LONGEST_REST_SECONDS, Circuits


class Clock:
    """Time that stands still until it is moved."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuits(clock):
    return Circuits(clock)


def test_a_worker_rests_after_a_failure_and_is_then_tried_by_one(circuits, clock):
    assert circuits.closed("w")
    circuits.failed("w")
    assert not circuits.closed("w")
    clock.now += 1.0
    assert circuits.closed("w")
    circuits.begin("w")
    assert not circuits.closed("w")
    circuits.reached("w")
    assert circuits.closed("w")
    assert not circuits.resting


def test_rests_double_up_to_a_bound(circuits, clock):
    circuits.failed("w")
    rests = []
    for _ in range(8):
        started = clock.now
        while not circuits.closed("w"):
            clock.now += 0.5
        rests.append(clock.now - started)
        circuits.begin("w")
        circuits.failed("w")
    assert rests[:4] == [1, 2, 4, 8]
    assert rests[-1] == LONGEST_REST_SECONDS


def test_failures_that_were_under_way_together_count_once(circuits, clock):
    for _ in range(10):
        circuits.failed("w")
    clock.now += 1.0
    assert circuits.closed("w")


def test_a_trial_without_a_verdict_lets_the_next_one_try(circuits, clock):
    circuits.failed("w")
    clock.now += 1.0
    circuits.begin("w")
    circuits.abandoned("w")
    assert circuits.closed("w")


def test_workers_do_not_share_their_fate(circuits):
    circuits.failed("w")
    assert circuits.closed("v")
    circuits.forget({"w", "v"})
    assert circuits.closed("w")
