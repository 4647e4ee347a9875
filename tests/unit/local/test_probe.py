"""Counting answers, asking more often without giving less time, and when a start is given up."""

import pytest

from tandem.local.policy import RestartPolicy
from tandem.local.probe import Count, hastened
from tandem.local.spec import ProbeSpec


def probe(**changes) -> ProbeSpec:
    return ProbeSpec(
        **{
            "kind": "startup",
            "port": 1,
            "path": "/health",
            "initial_delay": 0.0,
            "period": 2.0,
            "timeout": 1.0,
            "success_threshold": 1,
            "failure_threshold": 3,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("answers", "verdicts"),
    [
        ("+", ["passed"]),
        ("---", [None, None, "failed"]),
        ("--+--", [None, None, "passed", None, None]),
        ("----", [None, None, "failed", "failed"]),
    ],
)
def test_answers_count_in_a_row(answers, verdicts):
    count = Count(probe())
    assert [count.note(answer == "+") for answer in answers] == verdicts


def test_a_success_threshold_needs_as_many_in_a_row():
    count = Count(probe(success_threshold=2))
    assert [count.note(answer) for answer in (True, False, True, True)] == [None, None, None, "passed"]


@pytest.mark.parametrize(("period", "threshold"), [(2.0, 5400), (10.0, 3), (0.7, 10)])
def test_a_hastened_probe_is_asked_more_often_and_never_gives_up_earlier(period, threshold):
    before = probe(period=period, failure_threshold=threshold)
    after = hastened(before, period=0.25)
    assert after.period == 0.25
    assert after.period * after.failure_threshold >= before.period * before.failure_threshold


def test_a_probe_that_is_asked_often_already_stays_as_it_is():
    assert hastened(probe(period=0.1), period=0.25) == probe(period=0.1)


@pytest.mark.parametrize(
    ("failures", "was_ready", "seconds", "gives_up"),
    [
        (1, False, 1.0, False),
        (2, False, 1.0, True),
        (1, False, 30.0, True),
        (1, True, 300.0, False),
        (4, True, 1.0, False),
        (5, True, 1.0, True),
    ],
)
def test_starts_that_fail_are_given_up(failures, was_ready, seconds, gives_up):
    assert RestartPolicy().gives_up(failures, was_ready=was_ready, seconds=seconds) is gives_up


def test_pauses_double_up_to_a_limit():
    policy = RestartPolicy(first_pause=0.5, longest_pause=3.0)
    assert [policy.pause(failures) for failures in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
