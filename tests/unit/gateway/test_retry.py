"""What follows from the outcome of an attempt."""

from __future__ import annotations

import pytest

from tandem.gateway.retry import Fault, Outcome, Verdict, judge, pause

AGAIN = Verdict(again=True)
STOP = Verdict(again=False)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome(Fault.CONNECT), Verdict(again=True, same_worker=True, set_aside=True)),
        (Outcome(Fault.RESET), Verdict(again=True, same_worker=True)),
        (Outcome(Fault.TIMEOUT), AGAIN),
        (Outcome(Fault.HANDOFF), AGAIN),
        *((Outcome(Fault.STATUS, status), AGAIN) for status in (429, 500, 502, 503, 504)),
        *((Outcome(Fault.STATUS, status), STOP) for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 501, 505)),
        (Outcome(Fault.STATUS, 504, should_retry=False), STOP),
        (Outcome(Fault.STATUS, 503, should_retry=False), STOP),
        (Outcome(Fault.STATUS, 503, should_retry=True), AGAIN),
        (Outcome(Fault.STATUS, 400, should_retry=True), STOP),
    ],
)
def test_the_verdict_follows_from_the_outcome(outcome, verdict):
    assert judge(outcome) == verdict


@pytest.mark.parametrize(
    ("attempt", "draw", "seconds"),
    [(1, 0.5, 0.02), (1, 0.0, 0.01), (2, 0.5, 0.04), (4, 0.999, 0.24), (9, 0.5, 1.0), (5000, 0.5, 1.0)],
)
def test_pauses_double_are_spread_and_bounded(attempt, draw, seconds):
    assert pause(attempt, draw=draw, base=0.02, cap=1.0) == pytest.approx(seconds, rel=0.01)


def test_labels_are_short_names():
    assert Outcome(Fault.STATUS, 503).label == "status_503"
    assert Outcome(Fault.RESET).label == "reset"
