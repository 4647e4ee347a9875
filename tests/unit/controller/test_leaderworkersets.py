"""Workers of several pods each: planned, counted, rolled and explained as those of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tandem.controller.desired import Renderer
from tandem.controller.hints import Hint
from tandem.controller.ledger import Ledger
from tandem.controller.plan import Scale
from tandem.controller.rootcause import UNSEEN_SECONDS, left_alone
from tandem.kube.resources import LEADER_WORKER_SET
from tandem.manifests.placement import LEADER_WORKER_SET as API
from tests.unit.controller.samples import CREATED, ended, running
from tests.unit.controller.test_plan import created, deleted, names_of, plan, takeover
from tests.unit.controller.test_status import serving, shown, status_of
from tests.unit.controller.world import AGG, DISAGG, SPANNING, UID, World, model_deployment

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BOTH: dict[str, Any] = {**DISAGG, **SPANNING}
DECODE_ONLY = {
    **BOTH,
    "roles": {"prefill": {"replicas": 1, "parameters": {"tensorParallelSize": 8}}, "decode": {"replicas": 2}},
}


def test_the_kind_that_is_built_is_the_kind_that_is_followed() -> None:
    assert LEADER_WORKER_SET.api == API


def test_it_is_created_as_built() -> None:
    world = World(**DECODE_ONLY)
    found = plan(world)
    (sets,) = (apply for apply in found.applies if apply.ref.kind == "LeaderWorkerSet")
    (built,) = (obj for obj in world.built.objects if obj["kind"] == "LeaderWorkerSet")
    assert sets.body == built
    assert sets.uid is None


def test_nothing_is_written_when_it_is_there() -> None:
    world = World(**BOTH)
    ledger = world.apply_all()
    world.settle_all()
    assert plan(world, ledger).is_empty


def test_an_edit_of_one_role_writes_only_that_one_in_place() -> None:
    world = World(**DECODE_ONLY)
    ledger = world.apply_all()
    world.settle_all()
    decode = {"replicas": 2, "resources": {"requests": {"cpu": "7"}}}
    world.wish(**{**DECODE_ONLY, "roles": {**DECODE_ONLY["roles"], "decode": decode}})
    assert names_of(plan(world, ledger)) == [world.rendered.workers["decode"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 9},
        {"rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxUnavailable": 1}}},
    ],
)
def test_what_somebody_changed_is_brought_back(changes: dict[str, Any]) -> None:
    world = World(**AGG, **SPANNING)
    ledger = world.apply_all()
    world.settle_all()
    sets = world.workers("agg")
    world.put({**sets, "spec": {**sets["spec"], **changes}})
    (apply,) = plan(world, ledger).applies
    assert apply.ref.kind == "LeaderWorkerSet"
    assert {path.split(".")[1] for path in apply.why} == set(changes)


def test_defaults_of_the_api_server_are_left_alone() -> None:
    world = World(**AGG, **SPANNING)
    ledger = world.apply_all()
    world.settle_all()
    sets = world.workers("agg")
    sets["spec"] |= {"startupPolicy": "LeaderCreated", "networkConfig": {"subdomainPolicy": "Shared"}}
    sets["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]["partition"] = 0
    world.put(sets)
    assert plan(world, ledger).is_empty


def test_more_nodes_for_a_worker_are_a_new_revision_that_takes_over_beside_the_old_one() -> None:
    world = World(**AGG, backend="vllm", parameters={"tensorParallelSize": 8})
    ledger = world.apply_all()
    world.settle_all()
    old, old_name = world.rendered.revision, world.rendered.workers["agg"]
    world.wish(**AGG, **SPANNING)
    assert world.rendered.revision != old
    step = takeover(world)
    assert step.replicas == {world.rendered.workers["agg"]: 1, old_name: 2}
    found = plan(world, ledger)
    assert {apply.ref.kind for apply in found.applies} >= {"LeaderWorkerSet", "Service"}
    assert (found.scales, found.deletes) == ((), ())


def test_an_older_one_goes_step_by_step_and_its_service_with_it() -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    world.settle_all()
    old_revision, old_name = world.rendered.revision, world.rendered.workers["agg"]
    world.wish(**AGG, **SPANNING, model={"pvc": {"claimName": "models", "path": "other"}})
    ledger = Ledger(UID)
    created(world, plan(world, ledger))
    world.settle(world.workers("agg"))

    (scale,) = plan(world, ledger).scales
    assert scale == Scale(scale.ref, scale.uid, 1)
    assert (scale.ref.kind, scale.ref.name) == ("LeaderWorkerSet", old_name)

    world.settle(world.workers("agg", old_revision), replicas=0)
    world.settle(world.workers("agg"), replicas=2)
    assert deleted(plan(world, ledger)) == {("LeaderWorkerSet", old_name), ("Service", f"chat-agg-{old_revision}")}


@pytest.mark.parametrize("template", [{"workerTemplate": {}}, {"leaderTemplate": {}, "workerTemplate": {"spec": {}}}])
def test_a_set_that_somebody_emptied_is_brought_back_while_a_new_revision_takes_over(template: dict[str, Any]) -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    world.settle_all()
    world.wish(**AGG, **SPANNING, model={"pvc": {"claimName": "models", "path": "other"}})
    ledger = Ledger(UID)
    created(world, plan(world, ledger))
    sets = world.workers("agg")
    world.put({**sets, "spec": {**sets["spec"], "leaderWorkerTemplate": template}})
    assert world.rendered.workers["agg"] in names_of(plan(world, ledger))
    list(world.observed().stuck)


def test_a_set_that_was_not_taken_up_counts_for_nothing() -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    world.settle_all()
    world.set_status(world.workers("agg"))
    status = status_of(world)
    assert status["roles"]["agg"] == {"desired": 2, "updated": 0, "ready": 0}
    assert shown(status)["AggReady"] == ("False", "WorkersStarting")


def test_its_status_counts_workers() -> None:
    status = status_of(serving(**BOTH))
    assert status["roles"]["decode"] == {"desired": 2, "updated": 2, "ready": 2}
    assert shown(status)["Ready"] == ("True", "Serving")


def test_an_autoscaler_counts_leaders() -> None:
    assert "leaderworkerset.sigs.k8s.io/worker-index=0" in status_of(serving(**AGG, **SPANNING))["selector"]
    assert "leaderworkerset" not in status_of(serving(**AGG))["selector"]


def test_two_failing_pods_of_one_worker_are_one_failing_worker() -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    for number in range(2):
        world.put_pod(ended(1), role="agg", name=f"p-{number}", group="first")
    (workload,) = world.observed().workers
    assert workload.pool({}, NOW).failing == 1


def crashed(world: World, *, deleting: bool) -> None:
    """A container of the second pod of a worker has ended, and so all pods of that worker are replaced."""
    name = f"{world.rendered.workers['agg']}-0-1"
    sample = running(ready=True, restartCount=1, lastState={"terminated": {"exitCode": 3, "message": "no such flag"}})
    sample["status"]["containerStatuses"][0]["ready"] = False
    if deleting:
        sample["metadata"]["deletionTimestamp"] = CREATED
    world.put_pod(sample, role="agg", name=name, group="first")


@pytest.mark.parametrize("deleting", [True, False])
def test_why_a_worker_was_replaced_is_told_while_its_pods_go(deleting: bool) -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    crashed(world, deleting=deleting)
    cause = status_of(world)["rootCause"]
    assert (cause["exitCode"], cause["message"]) == (3, "no such flag")


def test_why_a_worker_was_replaced_stands_until_it_is_there_again() -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    for document in world.deployments():
        world.settle(document, ready=1)
    crashed(world, deleting=True)
    first = status_of(world)
    (pod,) = world.cache.of_kind("Pod")
    world.cache.remove(pod.ref, uid=pod.uid)
    again = status_of(world, first)
    assert again["rootCause"] == first["rootCause"]
    assert shown(again)["Ready"] == ("False", "ContainerFailed")
    assert "rootCause" not in status_of(world, first, generation=2), "another spec is another story"
    world.settle_all()
    assert "rootCause" not in status_of(world, first)


def test_a_set_that_nothing_takes_up_is_told_after_a_while() -> None:
    world = World(**AGG, **SPANNING)
    world.apply_all()
    sets = world.workers("agg")
    sets["metadata"]["creationTimestamp"] = NOW.isoformat()
    later = NOW + timedelta(seconds=UNSEEN_SECONDS)
    assert left_alone(sets, later - timedelta(seconds=1)) is None
    cause = left_alone(sets, later)
    assert cause is not None
    assert cause.reason == "LeaderWorkerSetLeftAlone"
    assert left_alone({**sets, "status": {"observedGeneration": 1}}, later) is None
    assert left_alone({**sets, "kind": "Deployment"}, later) is None
    world.put(sets)
    assert world.observed().until_left_alone(NOW + timedelta(seconds=10)) == UNSEEN_SECONDS - 10
    assert world.observed().until_left_alone(later) is None


def test_what_was_refused_is_rendered_when_the_api_has_come() -> None:
    world = World(**AGG)
    renderer = Renderer(world.cluster)
    renderer.serve(frozenset())
    deployment = model_deployment(**AGG, **SPANNING)
    with pytest.raises(Exception, match="cannot be used here"):
        renderer.render(deployment, rules={}, templates={})
    renderer.serve(frozenset({LEADER_WORKER_SET.api}))
    rendered = renderer.render(deployment, rules={}, templates={})
    assert [found.ref.kind for found in rendered.worker_loads] == ["LeaderWorkerSet"]


REFUSED = (
    'create Pod x-nodes-0 in StatefulSet x-nodes failed error: pods "x-nodes-0" is forbidden: '
    "exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"
)


def starting(*pods: str) -> World:
    """A set of two workers that its controller has taken up, with these pods: `0` leads the first worker."""
    world = World(**AGG, **SPANNING)
    world.apply_all()
    for document in world.deployments():
        world.settle(document, ready=0)
    for pod in pods:
        name = f"{world.rendered.workers['agg']}-{pod}"
        world.put_pod(running(ready=False), role="agg", name=name, group=pod.partition("-")[0])
    return world


@pytest.mark.parametrize(
    ("pods", "unmade"),
    [
        ((), ""),
        (("0", "0-1"), ""),
        (("0", "1", "1-1"), "-0"),
        (("0", "0-1", "1", "1-1"), None),
    ],
)
def test_which_statefulset_lacks_pods(pods: tuple[str, ...], unmade: str | None) -> None:
    world = starting(*pods)
    (workload,) = world.observed().workers
    assert workload.unmade == ("" if unmade is None else f"{workload.name}{unmade}")
    about = [subject.name for subject in world.observed().stuck if subject.name.startswith("StatefulSet")]
    assert about == ([] if unmade is None else [f"StatefulSet {workload.name}{unmade}"])


def test_pods_of_a_worker_that_may_not_be_made_are_told_from_events() -> None:
    world = starting()
    (workload,) = world.observed().workers
    cause = status_of(world, hints={workload.entry.uid: Hint("FailedCreate", REFUSED)})["rootCause"]
    assert cause["reason"] == "QuotaExceeded"
    assert cause["message"].startswith("exceeded quota: small")
