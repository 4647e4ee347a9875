"""Which Deployments make up which revision, and what a new one means for them."""

from __future__ import annotations

from typing import Any

from tandem.controller.takeover import Takeover
from tests.unit.controller.samples import ended
from tests.unit.controller.test_plan import takeover
from tests.unit.controller.world import AGG, DISAGG, World

NEW_MODEL = {"model": {"pvc": {"claimName": "models", "path": "qwen2"}}}


def new_revision(spec: dict[str, Any]) -> tuple[World, str]:
    """A settled deployment whose model changes; gives the old revision."""
    world = World(**spec)
    world.apply_all()
    world.settle_all()
    old = world.rendered.revision
    world.wish(**spec, **NEW_MODEL)
    assert world.rendered.revision != old
    return world, old


def test_a_first_revision_is_declared_at_once() -> None:
    world = World(**DISAGG)
    workers = world.rendered.workers
    assert takeover(world) == Takeover({workers["prefill"]: 1, workers["decode"]: 2})


def test_a_new_revision_begins_with_one_step_beside_the_old_one() -> None:
    world, old = new_revision(DISAGG)
    step = takeover(world)
    workers = world.rendered.workers
    assert step.replicas == {
        workers["prefill"]: 1,
        workers["decode"]: 1,
        world.workers("prefill", old)["metadata"]["name"]: 1,
        world.workers("decode", old)["metadata"]["name"]: 2,
    }
    assert (step.done, step.hold_router) == (False, False)


def test_an_old_deployment_is_drained_when_its_last_worker_is_gone() -> None:
    world, old = new_revision(AGG)
    for obj in world.built.objects:
        world.put(obj)
    world.settle(world.workers("agg"))
    name = world.workers("agg", old)["metadata"]["name"]
    assert (takeover(world).replicas[name], takeover(world).drained) == (0, frozenset())
    document = world.workers("agg", old)
    zero = {**document, "spec": {**document["spec"], "replicas": 0}}
    world.put(zero, status={"replicas": 1, "readyReplicas": 1})
    assert takeover(world).drained == frozenset()
    world.settle(world.workers("agg", old))
    assert takeover(world).drained == {name}


def test_crashing_old_workers_make_room() -> None:
    world, old = new_revision(AGG)
    world.settle(world.workers("agg", old), ready=0)
    for number in range(2):
        world.put_pod(ended(1), role="agg", revision=old, name=f"p{number}")
    step = takeover(world)
    assert step.replicas[world.workers("agg", old)["metadata"]["name"]] == 0


def test_going_back_makes_the_first_revision_the_wanted_one_again() -> None:
    world, old = new_revision(AGG)
    for obj in world.built.objects:
        world.put(obj)
    attempt = world.rendered.workers["agg"]
    world.settle(world.workers("agg"), replicas=1, ready=0)
    world.wish(**AGG)
    assert world.rendered.revision == old
    step = takeover(world)
    assert step.replicas == {world.rendered.workers["agg"]: 2, attempt: 0}


def test_another_backend_is_a_switch_even_with_the_same_roles() -> None:
    world = World(**AGG)
    world.apply_all()
    world.settle_all()
    world.wish(**AGG, backend="vllm")
    step = takeover(world)
    assert step.hold_router
    assert step.replicas[world.rendered.workers["agg"]] == 2, "it comes up whole: old and new cannot be mixed"
    for obj in world.built.objects:
        world.put(obj)
    world.settle(world.workers("agg"))
    assert takeover(world).hold_router is False
    old = next(name for name in takeover(world).replicas if name != world.rendered.workers["agg"])
    assert takeover(world).replicas[old] == 2, "the router is not over yet"
    router = next(d for d in world.deployments() if d["metadata"]["name"] == world.rendered.router.ref.name)
    world.settle(router)
    assert takeover(world).replicas[old] == 0
