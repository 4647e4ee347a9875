"""Only what differs is written, only what is ours is touched, and nothing goes while something may need it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tandem.controller.apply import Outcome
from tandem.controller.ledger import Ledger
from tandem.controller.plan import Delete, NotOurs, Plan, Tolerated, make_plan
from tandem.controller.takeover import Takeover, plan_takeover
from tandem.kube.cache import Owner, Ref
from tests.unit.controller.world import AGG, DISAGG, NAMESPACE, UID, World

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def takeover(world: World) -> Takeover:
    return plan_takeover(
        declared=world.declared,
        workers=world.rendered.workers,
        router=world.rendered.router.object,
        observed=world.observed(),
        max_surge=1,
        hints={},
        now=NOW,
    )


def plan(world: World, ledger: Ledger | None = None) -> Plan:
    return make_plan(world.rendered, world.observed(), takeover(world), ledger or Ledger(UID))


def ref(kind: str, name: str) -> Ref:
    return Ref(kind, NAMESPACE, name)


def names_of(found: Plan) -> list[str]:
    return sorted(apply.ref.name for apply in found.applies)


def refs_of(found: Plan) -> set[Ref]:
    return {apply.ref for apply in found.applies}


def test_everything_is_created_where_nothing_is() -> None:
    world = World(**DISAGG)
    found = plan(world)
    assert [apply.ref for apply in found.applies] == [desired.ref for desired in world.rendered.objects]
    assert all(apply.uid is None for apply in found.applies)
    assert (found.scales, found.deletes) == ((), ())


def test_nothing_is_written_when_all_is_there() -> None:
    world = World(**DISAGG)
    ledger = world.apply_all()
    assert plan(world, ledger).is_empty
    assert not plan(world, ledger).leads_on


def test_only_the_role_that_changed_is_written() -> None:
    world = World(**DISAGG)
    ledger = world.apply_all()
    roles = {"prefill": {"replicas": 1}, "decode": {"replicas": 2, "resources": {"requests": {"cpu": "2"}}}}
    world.wish(mode="disagg", roles=roles)
    found = plan(world, ledger)
    assert names_of(found) == [world.rendered.workers["decode"]]
    assert found.applies[0].uid


def test_an_edited_child_is_brought_back_with_the_fields_that_differ() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    document = world.workers("agg")
    world.put({**document, "spec": {**document["spec"], "replicas": 9}})
    (apply,) = plan(world, ledger).applies
    assert (apply.ref.name, apply.why) == (world.rendered.workers["agg"], ("spec.replicas",))
    assert apply.body["spec"]["replicas"] == 2


def test_fields_that_others_add_are_left_alone() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    document = world.workers("agg")
    world.put(document, metadata={"annotations": {"deployment.kubernetes.io/revision": "1"}})
    assert plan(world, ledger).is_empty


def test_a_field_that_is_no_longer_wanted_is_written_although_the_rest_is_there() -> None:
    world = World(mode="agg", roles={"agg": {"replicas": 2, "podTemplate": {"metadata": {"labels": {"team": "x"}}}}})
    ledger = world.apply_all()
    world.wish(**AGG)
    (apply,) = plan(world, ledger).applies
    assert (apply.ref.name, apply.why) == (world.rendered.workers["agg"], ())


def test_without_memory_of_what_was_written_everything_is_written_once() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    assert len(plan(world, Ledger(UID)).applies) == len(ledger.applied)


def test_what_was_compared_once_is_not_compared_again() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    first = plan(world, ledger)
    assert set(first.confirmed) == {desired.ref for desired in world.rendered.objects}
    ledger.confirmed |= first.confirmed
    assert plan(world, ledger).confirmed == {}
    world.settle(world.workers("agg"))
    assert set(plan(world, ledger).confirmed) == {ref("Deployment", world.rendered.workers["agg"])}


def test_a_difference_that_the_api_server_insists_on_is_written_once() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    service = next(obj for obj in world.built.objects if obj["kind"] == "Service" and obj["metadata"]["name"] == "chat")
    world.put({**service, "spec": {**service["spec"], "type": "LoadBalancer"}})
    (apply,) = plan(world, ledger).applies
    assert apply.why == ("spec.type",)
    ledger.tolerated[apply.ref] = Tolerated(apply.digest, frozenset(apply.why))
    assert plan(world, ledger).is_empty


OTHERS: dict[str, tuple[list[dict[str, Any]], Owner | None]] = {
    "nobody's": ([], None),
    "another controller's": (
        [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": True}],
        Owner("ReplicaSet", "rs", "rs-uid"),
    ),
    "another deployment's": (
        [
            {
                "apiVersion": "tandem.dev/v1alpha1",
                "kind": "ModelDeployment",
                "name": "other",
                "uid": "other-uid",
                "controller": True,
            }
        ],
        Owner("ModelDeployment", "other", "other-uid"),
    ),
}


@pytest.mark.parametrize("whose", ["nobody's", "another controller's"])
def test_an_object_of_others_is_not_touched(whose: str) -> None:
    owners, owner = OTHERS[whose]
    world = World(**AGG)
    ledger = world.apply_all()
    service = next(obj for obj in world.built.objects if obj["metadata"]["name"] == "chat")
    world.put({**service, "spec": {"ports": []}}, metadata={"ownerReferences": owners})
    found = plan(world, ledger)
    assert found.not_ours == (NotOurs(ref("Service", "chat"), owner),)
    assert found.is_empty


def test_what_a_deleted_deployment_of_the_same_name_left_is_waited_for() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    service = next(obj for obj in world.built.objects if obj["metadata"]["name"] == "chat")
    owners = [{**service["metadata"]["ownerReferences"][0], "uid": "an-earlier-uid"}]
    world.put(service, metadata={"ownerReferences": owners})
    found = plan(world, ledger)
    assert (found.waiting, found.not_ours, found.is_empty) == ((ref("Service", "chat"),), (), True)


def test_an_object_that_is_being_deleted_is_waited_for() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    service = next(obj for obj in world.built.objects if obj["metadata"]["name"] == "chat")
    world.put(service, metadata={"deletionTimestamp": "2026-11-21T12:00:00Z"})
    found = plan(world, ledger)
    assert found.waiting == (ref("Service", "chat"),)
    assert found.is_empty


def deleted(found: Plan) -> set[tuple[str, str]]:
    return {(delete.ref.kind, delete.ref.name) for delete in found.deletes}


def switched() -> tuple[World, Ledger, str]:
    """A settled aggregated deployment whose spec asks for disaggregated now; gives the old Deployment's name."""
    world = World(**AGG)
    ledger = world.apply_all()
    world.settle_all()
    old = world.rendered.workers["agg"]
    world.wish(**DISAGG)
    return world, ledger, old


def created(world: World, found: Plan) -> None:
    for apply in found.applies:
        world.put(dict(apply.body))


def test_a_switch_of_mode_goes_new_workers_then_router_then_old_workers_then_the_rest() -> None:
    world, ledger, old = switched()
    found = plan(world, ledger)
    router = world.rendered.router.ref
    assert router not in refs_of(found), "the router still serves the old workers"
    assert (found.scales, found.deletes) == ((), ())
    created(world, found)
    assert plan(world, ledger).deletes == ()

    for role in ("prefill", "decode"):
        world.settle(world.workers(role))
    before = ledger.applied["Deployment", router.name]
    ledger.applied = {(d.ref.kind, d.ref.name): d.digest for d in world.rendered.objects}
    ledger.applied["Deployment", router.name] = before
    found = plan(world, ledger)
    assert refs_of(found) == {router}, "new workers are ready: the router changes over"
    created(world, found)
    ledger.applied[("Deployment", router.name)] = found.applies[0].digest
    assert plan(world, ledger).is_empty, "the router is not over yet"

    world.settle(next(d for d in world.deployments() if d["metadata"]["name"] == router.name))
    (scale,) = plan(world, ledger).scales
    assert (scale.ref.name, scale.replicas) == (old, 0)

    document = next(d for d in world.deployments() if d["metadata"]["name"] == old)
    world.settle(document, replicas=0)
    found = plan(world, ledger)
    assert deleted(found) == {("Deployment", old), ("Service", old)}
    assert found.leads_on, "the watch does not announce what we remove ourselves"
    for delete in found.deletes:
        world.cache.remove(delete.ref, uid=delete.uid)

    found = plan(world, ledger)
    assert deleted(found) == {("ConfigMap", name) for kind, name in deleted(found) if kind == "ConfigMap"} | {
        ("PodDisruptionBudget", "chat-agg")
    }
    for delete in found.deletes:
        world.cache.remove(delete.ref, uid=delete.uid)
    assert plan(world, ledger).is_empty


def test_files_of_an_older_template_stay_until_every_worker_has_the_new_one() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    world.settle_all()
    old = {desired.ref.name for desired in world.rendered.objects if desired.ref.kind == "ConfigMap"}
    world.wish(**AGG, limits={"maxNewTokens": 99})
    found = plan(world, ledger)
    assert found.deletes == ()
    created(world, found)
    ledger.applied = {(d.ref.kind, d.ref.name): d.digest for d in world.rendered.objects}
    document = world.workers("agg")
    world.set_status(document, observedGeneration=0, replicas=3, updatedReplicas=1, readyReplicas=2)
    assert plan(world, ledger).is_empty
    world.settle(world.workers("agg"))
    assert {name for _, name in deleted(plan(world, ledger))} == old


def test_kinds_that_are_never_applied_are_never_deleted() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    world.settle_all()
    owner = world.built.objects[0]["metadata"]["ownerReferences"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": NAMESPACE, "ownerReferences": owner},
    }
    pod["metadata"]["labels"] = {"tandem.dev/deployment": "chat"}
    world.put(pod)
    assert plan(world, ledger).deletes == ()


def test_a_leftover_goes_with_its_uid() -> None:
    world = World(**AGG)
    ledger = world.apply_all()
    world.settle_all()
    owner = world.built.objects[0]["metadata"]["ownerReferences"]
    metadata = {"name": "leftover", "namespace": NAMESPACE, "ownerReferences": owner}
    entry = world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    assert plan(world, ledger).deletes == (Delete(entry.ref, entry.uid),)


def overtaken() -> tuple[World, Ledger, dict[str, Any]]:
    """A settled deployment whose next revision has just been created; gives the old Deployment."""
    world = World(**AGG)
    ledger = world.apply_all()
    ledger.note(world.rendered, plan(world, ledger), Outcome(), held=None)
    world.settle_all()
    old = world.workers("agg")
    world.wish(**AGG, model={"pvc": {"claimName": "models", "path": "other"}})
    found = plan(world, ledger)
    ledger.note(world.rendered, found, Outcome(written=found.applies), held=None)
    created(world, found)
    return world, ledger, old


def test_an_older_deployment_that_was_changed_is_repaired_while_it_serves() -> None:
    world, ledger, old = overtaken()
    assert plan(world, ledger).applies == ()
    old["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    entry = world.put(old)
    (apply,) = plan(world, ledger).applies
    assert (apply.ref, apply.uid) == (entry.ref, entry.uid)
    assert apply.why == ("spec.template.spec.containers[server].image",)
    assert apply.body["spec"]["replicas"] == 2
    assert plan(world, ledger).scales == ()


def test_an_older_deployment_is_only_scaled_when_only_its_replicas_differ() -> None:
    world, ledger, old = overtaken()
    old["spec"]["replicas"] = 5
    world.put(old)
    found = plan(world, ledger)
    assert found.applies == ()
    assert [(scale.ref.name, scale.replicas) for scale in found.scales] == [(old["metadata"]["name"], 2)]


def test_what_an_older_revision_was_made_from_is_forgotten_when_it_is_gone() -> None:
    world, ledger, _ = overtaken()
    assert len(ledger.workers) == 2
    for entry in list(world.observed().owned.values()):
        if entry.ref not in {desired.ref for desired in world.rendered.objects}:
            world.cache.remove(entry.ref, uid=entry.uid)
    ledger.note(world.rendered, plan(world, ledger), Outcome(), held=None)
    assert [found.name for found in ledger.workers] == [world.rendered.workers["agg"]]
