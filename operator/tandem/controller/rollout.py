"""How a new revision takes over from older ones, one safe step at a time.

`next_step` is a pure function of what runs now. It keeps no state: going back half-way is just another step, and a
restarted operator goes on where it stopped. Each step keeps these promises, whatever the pods do:

- no role's ready workers are reduced below the declared number,
- no role has more than declared + max_surge workers (but for a switch, see below),
- on both sides prefill and decode keep the declared ratio, as closely as whole workers allow.

A switch of mode or backend cannot be mixed: the router speaks one protocol at a time. The new side then comes up whole
beside the old one, the router changes over, and only then the old side goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one role and revision: wanted now, existing now, ready, and failing (for a reason of their own)."""

    replicas: int = 0
    present: int = 0
    ready: int = 0
    failing: int = 0

    @property
    def serving(self) -> int:
        """Ready workers that are not about to be removed."""
        return min(self.ready, self.replicas)

    @property
    def occupied(self) -> int:
        """Places that are taken, until workers that are no longer wanted are gone."""
        return max(self.replicas, self.present)

    @property
    def leaving(self) -> int:
        """Workers that are no longer wanted and not gone yet."""
        return max(self.present - self.replicas, 0)

    @property
    def hopeful(self) -> int:
        """Workers that serve or may come to serve."""
        return max(self.serving, self.replicas - self.failing)


Side = Mapping[str, Pool]
"""The pools of one revision by role."""


class Switch(Enum):
    """Where the router is when old and new workers do not speak the same protocol."""

    NOT_NEEDED = "not needed"
    BEFORE = "the router still serves the old side"
    AFTER = "the router serves the new side"


@dataclass(frozen=True, slots=True)
class Step:
    """Replicas to set now. `done` when nothing of the old sides is wanted or left."""

    current: Mapping[str, int]
    old: tuple[Mapping[str, int], ...]
    router_may_switch: bool = True
    done: bool = False


def next_step(
    *,
    declared: Mapping[str, int],
    current: Side,
    old: Sequence[Side],
    max_surge: int = 1,
    switch: Switch = Switch.NOT_NEEDED,
) -> Step:
    """The next step from the `old` sides to the `current` one, whose roles are those of `declared`."""
    nothing = tuple(dict.fromkeys(side, 0) for side in old)
    if not any(pool.occupied for side in old for pool in side.values()):
        return Step(dict(declared), nothing, done=True)
    whole = all(_pool(current, role).serving >= count for role, count in declared.items())
    if switch is Switch.BEFORE:
        kept = tuple({role: pool.hopeful for role, pool in side.items()} for side in old)
        serves_nobody = not any(pool.serving for side in old for pool in side.values())
        return Step(dict(declared), kept, router_may_switch=whole or serves_nobody)
    if switch is Switch.AFTER or whole:
        return Step(dict(declared), nothing)
    return Step(_grow(declared, current, old, max_surge), _shrink(declared, current, old))


def _grow(declared: Mapping[str, int], current: Side, old: Sequence[Side], max_surge: int) -> dict[str, int]:
    """As much of the new side as fits beside what exists of the old ones."""
    steps = max(declared.values())
    room = {
        role: d + max_surge - _pool(current, role).leaving - sum(_pool(side, role).occupied for side in old)
        for role, d in declared.items()
    }
    reached = _largest(steps, lambda s: all(_up(d, s, steps) <= room[role] for role, d in declared.items()))
    return {role: max(min(_pool(current, role).replicas, d), _up(d, reached, steps)) for role, d in declared.items()}


def _shrink(declared: Mapping[str, int], current: Side, old: Sequence[Side]) -> tuple[dict[str, int], ...]:
    """What the old sides must still hold so that nothing is lost; the side that serves most keeps most."""
    steps = max(declared.values())
    needed = steps - _largest(
        steps, lambda s: all(_up(d, s, steps) <= _pool(current, role).serving for role, d in declared.items())
    )
    targets: list[dict[str, int]] = [{} for _ in old]
    held = 0
    for index in sorted(range(len(old)), key=lambda i: -_steps_served(declared, old[i])):
        side = old[index]
        upto = min(needed, held + _steps_wanted(declared, side))
        for role, pool in side.items():
            d = declared.get(role, 0)
            targets[index][role] = min(pool.hopeful, _down(d, upto, steps) - _down(d, held, steps))
        held += min(upto - held, _steps_served(declared, side))
    for role, d in declared.items():
        _keep_serving(role, d, current, old, targets)
    return tuple(targets)


def _keep_serving(
    role: str, declared: int, current: Side, old: Sequence[Side], targets: Sequence[dict[str, int]]
) -> None:
    """Raises targets until no worker goes that serves and is needed: rounding must not cost capacity."""
    lacking = declared - _pool(current, role).serving
    lacking -= sum(
        min(_pool(side, role).serving, target.get(role, 0)) for side, target in zip(old, targets, strict=True)
    )
    for side, target in zip(old, targets, strict=True):
        spare = _pool(side, role).serving - target.get(role, 0)
        if lacking > 0 and spare > 0:
            raised = min(lacking, spare)
            target[role] += raised
            lacking -= raised


def _steps_served(declared: Mapping[str, int], side: Side) -> int:
    """The steps of capacity that an old side gives now."""
    steps = max(declared.values())
    return _largest(steps, lambda t: all(_down(d, t, steps) <= _pool(side, r).serving for r, d in declared.items()))


def _steps_wanted(declared: Mapping[str, int], side: Side) -> int:
    """The fewest steps that hold every hopeful worker of an old side; all steps when it has more than declared."""
    steps = max(declared.values())
    short = _largest(
        steps, lambda t: any(_down(d, t, steps) < min(d, _pool(side, role).hopeful) for role, d in declared.items())
    )
    hopeful = any(_pool(side, role).hopeful for role in declared)
    return min(steps, short + 1) if hopeful else 0


def _pool(side: Side, role: str) -> Pool:
    return side.get(role, Pool())


def _up(declared: int, step: int, steps: int) -> int:
    """Workers of a role on the new side after `step` of `steps`: rounded up, so that capacity is there first."""
    return -(-declared * step // steps)


def _down(declared: int, step: int, steps: int) -> int:
    """Workers of a role on the old side with `step` of `steps` left; each role keeps one until the end."""
    return max(1, declared * step // steps) if step > 0 and declared > 0 else 0


def _largest(steps: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `steps` for which `holds`, which holds for all below it too; 0 is never asked."""
    return next((step for step in range(steps, 0, -1) if holds(step)), 0)
