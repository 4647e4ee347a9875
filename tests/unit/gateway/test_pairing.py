"""Which prefill and which decode worker serve a request together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.gateway.fleet import Endpoint, Role
from tandem.gateway.pairing import capacities, choose_pair, pick_revision

pools = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3))


def made(role, pool):
    return [
        Endpoint(f"{role}-{revision}-{index}", "h", 1, role, revision, True)
        for revision, count in sorted(pool.items())
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("prefill", "decode", "shares"),
    [
        ({"a": 1}, {"a": 1}, {"a": 1}),
        ({"a": 2, "b": 1}, {"a": 3, "b": 1}, {"a": 2 / 3, "b": 1 / 4}),
        ({"a": 3, "b": 1}, {"a": 1, "b": 3}, {"a": 1 / 4, "b": 1 / 4}),
        ({"a": 1}, {"b": 1}, {}),
        ({"a": 1, "b": 1}, {"b": 1}, {"b": 1 / 2}),
    ],
)
def test_a_revision_is_worth_its_scarcer_side(prefill, decode, shares):
    assert capacities(made(Role.PREFILL, prefill), made(Role.DECODE, decode)) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("draw", "revision"), [(0.0, "a"), (0.74, "a"), (0.76, "b"), (0.999999999, "b"), (1 - 2**-53, "b")]
)
def test_a_draw_falls_on_a_revision_by_its_weight(draw, revision):
    assert pick_revision({"a": 0.6, "b": 0.2}, draw) == revision


def test_requests_are_shared_by_ready_capacity():
    prefills, decodes = made(Role.PREFILL, {"a": 3, "b": 1}), made(Role.DECODE, {"a": 3, "b": 1})
    pairs = [
        choose_pair(prefills, decodes, choose=lambda candidates: candidates[0], draw=index / 1000)
        for index in range(1000)
    ]
    assert Counter(pair.decode.revision for pair in pairs) == {"a": 750, "b": 250}


@settings(deadline=None)
@given(pools, pools, st.floats(0, 1, exclude_max=True), st.integers(0, 10))
def test_pairs_are_of_equal_revision_and_found_whenever_there_is_one(prefill, decode, draw, turn):
    pair = choose_pair(
        made(Role.PREFILL, prefill),
        made(Role.DECODE, decode),
        choose=lambda candidates: candidates[turn % len(candidates)],
        draw=draw,
    )
    common = {revision for revision in prefill if prefill[revision] and decode.get(revision)}
    if not any(decode.values()):
        assert pair is None
    elif common:
        assert pair.prefill.revision == pair.decode.revision
        assert pair.decode.revision in common
    else:
        assert pair.prefill is None
        assert pair.decode.role is Role.DECODE
