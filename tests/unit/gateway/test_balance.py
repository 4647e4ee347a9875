"""Which of several equal workers takes the next request."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.gateway.balance import Policy, choose
from tandem.gateway.fleet import Endpoint, Role


def fleet(count):
    return [Endpoint(f"w-{index}", "10.0.0.1", 8000 + index, Role.AGG, "r", True) for index in range(count)]


def test_round_robin_goes_round():
    workers = fleet(3)
    chosen = [choose(Policy.ROUND_ROBIN, workers, loads={}, turn=turn, prefix=b"") for turn in range(7)]
    assert [endpoint.name for endpoint in chosen] == ["w-0", "w-1", "w-2", "w-0", "w-1", "w-2", "w-0"]


@pytest.mark.parametrize(
    ("loads", "names"),
    [((2, 1, 3), ["w-1"]), ((0, 1, 0), ["w-0", "w-2"]), ((None, 1, 1), ["w-0"]), ((4, 4, 4), ["w-0", "w-1", "w-2"])],
)
def test_least_loaded_takes_the_emptiest_and_turns_among_equals(loads, names):
    workers = fleet(3)
    known = {worker.identity: load for worker, load in zip(workers, loads, strict=True) if load is not None}
    chosen = {choose(Policy.LEAST_LOADED, workers, loads=known, turn=turn, prefix=b"").name for turn in range(6)}
    assert chosen == set(names)


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(st.binary(max_size=8), min_size=1, max_size=60))
def test_affinity_never_loads_a_worker_beyond_its_bound(count, prefixes):
    workers = fleet(count)
    loads = Counter()
    for turn, prefix in enumerate(prefixes):
        chosen = choose(Policy.PREFIX_AFFINITY, workers, loads=loads, turn=turn, prefix=prefix)
        loads[chosen.identity] += 1
    assert max(loads.values()) <= 1.25 * len(prefixes) / count + 1


@settings(deadline=None)
@given(st.binary(max_size=32), st.integers(2, 6))
def test_affinity_moves_only_the_prefixes_of_a_worker_that_went(prefix, count):
    workers = fleet(count)
    home = choose(Policy.PREFIX_AFFINITY, workers, loads={}, turn=0, prefix=prefix)
    for gone in workers:
        left = [worker for worker in workers if worker is not gone]
        again = choose(Policy.PREFIX_AFFINITY, left, loads={}, turn=0, prefix=prefix)
        assert (again == home) == (gone is not home)
