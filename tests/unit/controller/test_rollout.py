"""A new revision takes over without ever costing capacity, whatever the workers do on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.controller.rollout import Pool, Step, Switch, next_step


def pools(**counts: int | tuple[int, int]) -> dict[str, Pool]:
    """`decode=2`: two ready workers; `decode=(2, 1)`: two workers, one of them ready."""
    made = {}
    for role, count in counts.items():
        replicas, ready = count if isinstance(count, tuple) else (count, count)
        made[role] = Pool(replicas=replicas, present=replicas, ready=ready)
    return made


PD = {"prefill": 1, "decode": 2}

TABLE = {
    "nothing old: as declared": (PD, {}, [], {"prefill": 1, "decode": 2}, []),
    "the first new pair starts beside the old side": (
        PD,
        {},
        [pools(prefill=1, decode=2)],
        {"prefill": 1, "decode": 1},
        [{"prefill": 1, "decode": 2}],
    ),
    "while it starts nothing old goes": (
        PD,
        pools(prefill=(1, 0), decode=(1, 0)),
        [pools(prefill=1, decode=2)],
        {"prefill": 1, "decode": 1},
        [{"prefill": 1, "decode": 2}],
    ),
    "half of a pair ready is not a step": (
        PD,
        pools(prefill=(1, 0), decode=1),
        [pools(prefill=1, decode=2)],
        {"prefill": 1, "decode": 1},
        [{"prefill": 1, "decode": 2}],
    ),
    "a ready pair replaces one old decode; the old prefill stays for the other": (
        PD,
        pools(prefill=1, decode=1),
        [pools(prefill=1, decode=2)],
        {"prefill": 1, "decode": 1},
        [{"prefill": 1, "decode": 1}],
    ),
    "the place that came free is used": (
        PD,
        pools(prefill=1, decode=1),
        [pools(prefill=1, decode=1)],
        {"prefill": 1, "decode": 2},
        [{"prefill": 1, "decode": 1}],
    ),
    "whole: the old side goes": (
        PD,
        pools(prefill=1, decode=2),
        [pools(prefill=1, decode=1)],
        {"prefill": 1, "decode": 2},
        [{"prefill": 0, "decode": 0}],
    ),
    "scaled down in the same edit: what is beyond the declared number goes first": (
        {"agg": 2},
        {},
        [pools(agg=5)],
        {"agg": 0},
        [{"agg": 2}],
    ),
    "scaled up in the same edit: old workers stay, all new places are used": (
        {"agg": 4},
        {},
        [pools(agg=2)],
        {"agg": 3},
        [{"agg": 2}],
    ),
    "scaled to zero: all goes at once": ({"agg": 0}, {}, [pools(agg=2)], {"agg": 0}, [{"agg": 0}]),
    "failing old workers make room: they are no capacity": (
        {"agg": 1},
        {},
        [{"agg": Pool(replicas=1, present=1, ready=0, failing=1)}],
        {"agg": 1},
        [{"agg": 0}],
    ),
    "going back: the broken attempt goes at once, the first side fills up as places come free": (
        {"agg": 2},
        pools(agg=1),
        [{"agg": Pool(replicas=1, present=1, ready=0, failing=1)}],
        {"agg": 2},
        [{"agg": 0}],
    ),
    "of two old sides the one that serves more keeps its place": (
        {"agg": 3},
        {},
        [pools(agg=(1, 0)), pools(agg=3)],
        {"agg": 0},
        [{"agg": 0}, {"agg": 3}],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_next_step_is(case: str) -> None:
    declared, current, old, expected, expected_old = TABLE[case]
    step = next_step(declared=declared, current=current, old=old)
    assert (dict(step.current), [dict(target) for target in step.old]) == (expected, expected_old)


def test_it_is_done_when_no_old_worker_is_wanted_or_left() -> None:
    leaving = [{"agg": Pool(replicas=0, present=1, ready=1)}]
    assert not next_step(declared={"agg": 1}, current=pools(agg=1), old=leaving).done
    assert next_step(declared={"agg": 1}, current=pools(agg=1), old=[{"agg": Pool()}]).done


def test_a_larger_surge_takes_larger_steps() -> None:
    step = next_step(declared={"agg": 8}, current={}, old=[pools(agg=8)], max_surge=4)
    assert step.current == {"agg": 4}


def test_a_switch_brings_the_new_side_up_whole_then_the_router_then_removes_the_old_side() -> None:
    declared, old = {"prefill": 1, "decode": 2}, [pools(agg=2)]
    starting = next_step(declared=declared, current={}, old=old, switch=Switch.BEFORE)
    assert starting == Step({"prefill": 1, "decode": 2}, ({"agg": 2},), router_may_switch=False)
    whole = next_step(declared=declared, current=pools(prefill=1, decode=2), old=old, switch=Switch.BEFORE)
    assert (whole.router_may_switch, whole.old) == (True, ({"agg": 2},))
    after = next_step(declared=declared, current=pools(prefill=1, decode=2), old=old, switch=Switch.AFTER)
    assert after.old == ({"agg": 0},)


def test_a_switch_from_a_side_that_serves_nobody_does_not_wait() -> None:
    broken = [{"agg": Pool(replicas=1, present=1, failing=1)}]
    step = next_step(declared={"prefill": 1, "decode": 1}, current={}, old=broken, switch=Switch.BEFORE)
    assert (step.router_may_switch, step.old) == (True, ({"agg": 0},))


@dataclass
class Workers:
    """Workers of one role and revision as a Deployment keeps them: the unready go first."""

    replicas: int = 0
    ready: int = 0
    leaving: int = 0

    def scale(self, replicas: int) -> None:
        gone = max(self.replicas - replicas, 0)
        self.leaving += gone
        self.replicas = replicas
        self.ready = min(self.ready, replicas)

    def pool(self) -> Pool:
        return Pool(replicas=self.replicas, present=self.replicas + self.leaving, ready=self.ready)


@dataclass
class World:
    declared: dict[str, int]
    surge: int
    current: dict[str, Workers]
    old: list[dict[str, Workers]] = field(default_factory=list)

    def step(self) -> Step:
        return next_step(
            declared=self.declared,
            current=_side(self.current),
            old=[_side(side) for side in self.old],
            max_surge=self.surge,
        )

    def apply(self, step: Step) -> None:
        for role, replicas in step.current.items():
            self.current[role].scale(replicas)
        for side, target in zip(self.old, step.old, strict=True):
            for role, replicas in target.items():
                side[role].scale(replicas)

    def serving(self, role: str) -> int:
        return sum(side[role].ready for side in [self.current, *self.old])

    def wanted(self, role: str) -> int:
        return sum(side[role].replicas for side in [self.current, *self.old])

    def occupied(self, role: str) -> int:
        return sum(side[role].replicas + side[role].leaving for side in [self.current, *self.old])

    def settle(self) -> None:
        """Everything that starts becomes ready, everything that leaves is gone."""
        for side in [self.current, *self.old]:
            for workers in side.values():
                workers.ready, workers.leaving = workers.replicas, 0


def _side(side: Mapping[str, Workers]) -> dict[str, Pool]:
    return {role: workers.pool() for role, workers in side.items()}


def _new_side(declared: Mapping[str, int]) -> dict[str, Workers]:
    return {role: Workers() for role in declared}


def _full_side(declared: Mapping[str, int]) -> dict[str, Workers]:
    return {role: Workers(replicas=count, ready=count) for role, count in declared.items()}


declarations = st.one_of(
    st.fixed_dictionaries({"agg": st.integers(1, 7)}),
    st.fixed_dictionaries({"prefill": st.integers(1, 5), "decode": st.integers(1, 7)}),
)


@settings(max_examples=80, deadline=None)
@given(declared=declarations, surge=st.integers(1, 4), data=st.data())
def test_promises_hold_at_every_step_and_every_takeover_ends(declared, surge, data) -> None:
    world = World(declared, surge, _new_side(declared), [_full_side(declared)])
    for _ in range(data.draw(st.integers(1, 25), label="moves")):
        match data.draw(st.sampled_from(["ready", "gone", "edit", "revert", "step", "step"]), label="move"):
            case "ready":
                side = data.draw(st.sampled_from([world.current, *world.old]))
                workers = side[data.draw(st.sampled_from(sorted(declared)))]
                workers.ready = min(workers.replicas, workers.ready + 1)
            case "gone":
                for side in [world.current, *world.old]:
                    for workers in side.values():
                        workers.leaving = 0
            case "edit" if len(world.old) < 3:
                world.old.append(world.current)
                world.current = _new_side(declared)
            case "revert" if world.old:
                back = world.old.pop(data.draw(st.integers(0, len(world.old) - 1)))
                world.old.append(world.current)
                world.current = back
            case _:
                _checked_step(world)
    for _ in range(6 * (sum(declared.values()) + 2)):
        world.settle()
        if _checked_step(world).done:
            break
    world.settle()
    assert world.step().done
    assert {role: workers.ready for role, workers in world.current.items()} == declared


def _checked_step(world: World) -> Step:
    before = {role: world.serving(role) for role in world.declared}
    step = world.step()
    world.apply(step)
    for role, count in world.declared.items():
        assert world.serving(role) >= min(before[role], count), "capacity was given up"
        assert world.occupied(role) <= count + world.surge, "more workers than the surge allows"
    if len([side for side in world.old if any(w.replicas for w in side.values())]) == 1:
        _check_ratio(world)
    return step


def _check_ratio(world: World) -> None:
    """Each side is within one worker per role of a common share of the declared numbers."""
    for side in [world.current, *world.old]:
        shares = {role: side[role].replicas for role in world.declared}
        steps = max(world.declared.values())
        if not any(shares.values()):
            continue
        assert any(
            all(abs(shares[role] - count * step / steps) <= 1 for role, count in world.declared.items())
            for step in range(steps + 1)
        ), f"{shares} does not keep the ratio of {world.declared}"


@settings(max_examples=100, deadline=None)
@given(declared=declarations, before=declarations, surge=st.integers(1, 4))
def test_a_takeover_with_other_numbers_ends_and_never_costs_capacity(declared, before, surge) -> None:
    if set(declared) != set(before):
        before = declared
    world = World(declared, surge, _new_side(declared), [_full_side(before)])
    for _ in range(6 * (sum(declared.values()) + sum(before.values()))):
        serving = {role: world.serving(role) for role in declared}
        step = world.step()
        world.apply(step)
        for role, count in declared.items():
            assert world.serving(role) >= min(serving[role], count)
            assert world.wanted(role) <= max(count, before[role]) + surge
        world.settle()
        if step.done:
            break
    assert world.step().done
