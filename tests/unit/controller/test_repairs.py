"""What others keep changing is put back ever more rarely."""

from __future__ import annotations

from typing import Any

from tandem.controller.plan import Apply, Plan
from tandem.controller.repairs import FORGOTTEN_AFTER_SECONDS, FREE, LONGEST_SECONDS, Repairs
from tandem.kube.cache import Ref

REF, OTHER = Ref("Deployment", "ns", "chat-router"), Ref("Service", "ns", "chat")
APPLIED = {(ref.kind, ref.name): "d1" for ref in (REF, OTHER)}


def write(ref: Ref = REF, digest: str = "d1", why: tuple[str, ...] = ("spec.template",)) -> Apply:
    return Apply(ref, digest, {}, "uid", why)


def repaired(repairs: Repairs, now: float, **fields: Any) -> bool:
    plan, _ = repairs.due(Plan(applies=(write(**fields),)), applied=APPLIED, now=now)
    return not plan.is_empty


def test_the_first_repairs_are_made_at_once() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0) for _ in range(FREE))
    assert not repaired(repairs, now=0.0)


def test_further_repairs_wait_twice_as_long_each_time() -> None:
    repairs, made = Repairs(), []
    for half in range(1_000):
        if repaired(repairs, now=half / 2):
            made.append(half / 2)
        if len(made) < FREE:
            made += [half / 2 for _ in range(FREE) if repaired(repairs, now=half / 2)]
    pauses = [later - earlier for earlier, later in zip(made[FREE - 1 :], made[FREE:], strict=False)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, LONGEST_SECONDS]
    assert set(pauses[7:]) == {LONGEST_SECONDS}


def test_the_time_of_the_next_repair_is_told_and_other_writes_are_made() -> None:
    repairs = Repairs()
    for _ in range(FREE):
        repaired(repairs, now=0.0)
    plan, wait = repairs.due(Plan(applies=(write(), write(OTHER))), applied=APPLIED, now=0.25)
    assert [apply.ref for apply in plan.applies] == [OTHER]
    assert wait == 0.75


def test_edits_of_the_spec_never_wait() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0, digest=f"d{number}") for number in range(2, 30))
    assert all(repaired(repairs, now=0.0, why=()) for _ in range(30))


def test_steps_of_a_rollout_never_wait() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0, why=("spec.replicas",)) for _ in range(30))


def test_a_fight_that_is_long_over_is_forgotten() -> None:
    repairs = Repairs()
    for _ in range(FREE):
        repaired(repairs, now=0.0)
    later = FORGOTTEN_AFTER_SECONDS + 1
    assert all(repaired(repairs, now=later) for _ in range(FREE))
