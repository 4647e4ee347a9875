"""What others keep changing is put back ever more rarely, and who it is gets known."""

from __future__ import annotations

from typing import Any

from tandem.controller.pace import FORGOTTEN_AFTER_SECONDS, FREE
from tandem.controller.plan import Apply, Plan
from tandem.controller.repairs import Repairs
from tandem.kube.cache import Ref

REF, OTHER = Ref("Deployment", "ns", "chat-router"), Ref("Service", "ns", "chat")
APPLIED = {(ref.kind, ref.name): "d1" for ref in (REF, OTHER)}


def write(
    ref: Ref = REF,
    digest: str = "d1",
    why: tuple[str, ...] = ("spec.template",),
    replicas: int | None = 1,
    uid: str | None = "uid",
) -> Apply:
    return Apply(ref, digest, {"spec": {"replicas": replicas}}, uid, why)


def repaired(repairs: Repairs, now: float, **fields: Any) -> bool:
    plan, _ = repairs.due(Plan(applies=(write(**fields),)), applied=APPLIED, now=now)
    return not plan.is_empty


def test_after_the_first_ones_repairs_wait_and_other_writes_are_made() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0) for _ in range(FREE))
    plan, wait = repairs.due(Plan(applies=(write(), write(OTHER))), applied=APPLIED, now=0.25)
    assert [apply.ref for apply in plan.applies] == [OTHER]
    assert wait == 0.75


def test_edits_of_the_spec_never_wait() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0, digest=f"d{number}") for number in range(2, 30))
    assert all(repaired(repairs, now=0.0, why=()) for _ in range(30))


def test_steps_of_a_rollout_never_wait() -> None:
    repairs = Repairs()
    assert all(repaired(repairs, now=0.0, why=("spec.replicas",), replicas=number) for number in range(30))


def test_replicas_that_somebody_else_keeps_setting_wait_too() -> None:
    repairs = Repairs()
    assert [repaired(repairs, now=0.0, why=("spec.replicas",)) for _ in range(30)].count(True) == FREE


def test_an_object_that_somebody_keeps_deleting_waits_too() -> None:
    repairs = Repairs()
    made = [repaired(repairs, now=float(second), why=(), uid=None) for second in range(20)]
    assert made.count(True) < FREE + 6
    (contest,) = repairs.unnamed
    assert "somebody keeps deleting it" in str(contest)


def test_an_object_that_is_made_for_the_first_time_never_waits() -> None:
    repairs = Repairs()
    new = Ref("ConfigMap", "ns", "new")
    assert all(repaired(repairs, now=0.0, ref=new, why=(), uid=None) for _ in range(30))


def test_a_deployment_of_an_older_revision_waits_too() -> None:
    repairs = Repairs()
    older = Ref("Deployment", "ns", "chat-agg-0ld")
    assert [repaired(repairs, now=0.0, ref=older) for _ in range(30)].count(True) == FREE


def test_writes_that_are_refused_are_no_fight() -> None:
    repairs = Repairs()
    for _ in range(30):
        assert repaired(repairs, now=0.0, why=(), uid=None)
        repairs.failed(REF)
    assert repairs.contests == ()


def test_a_fight_is_told_until_it_is_over_and_its_end_is_looked_for() -> None:
    repairs = Repairs()
    for _ in range(FREE):
        repaired(repairs, now=0.0)
    assert repairs.contests == ()
    assert repaired(repairs, now=1.0)
    (contest,) = repairs.unnamed
    repairs.name(contest, ("other-controller",))
    assert repairs.unnamed == ()
    (told,) = repairs.contests
    assert (told.ref, told.paths, told.managers) == (REF, ("spec.template",), ("other-controller",))
    _, wait = repairs.due(Plan(), applied=APPLIED, now=2.0)
    assert wait == FORGOTTEN_AFTER_SECONDS - 1
    assert repairs.due(Plan(), applied=APPLIED, now=2.0 + wait)[1] is None
    assert repairs.contests == ()
