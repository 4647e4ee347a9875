"""The operator as a process: two replicas, a clean end, a cluster that is not prepared, few rights, and rest."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tandem.kube.lease import LeaseTimes
from tests.cluster.audit import AuditEvent
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.integration.controller.api import Api, eventually
from tests.integration.controller.conftest import USER, Start, install_crds
from tests.integration.controller.process import OperatorProcess
from tests.integration.controller.rights import OPERATOR_RULES, grant
from tests.integration.controller.space import AGG, DISAGG, Space, condition

pytestmark = pytest.mark.integration

TAKEOVER_SECONDS = 20.0
IDLE_SECONDS = 60.0


def writes_of(plane: ControlPlane, since: int, user: str) -> list[AuditEvent]:
    """Finished writes of a user, in order, Leases left out."""
    return [
        event
        for event in plane.audit_events(since=since)
        if event.user == user and event.is_write and event.resource != "leases" and event.stage == "ResponseComplete"
    ]


def pair(start: Start, space: Space) -> tuple[OperatorProcess, OperatorProcess]:
    """Two replicas with one Lease in the space; the first one leads."""
    lease = {"namespace": space.namespace}
    fields = {"namespaces": (space.namespace,), "lease": lease}
    first = start(user="replica-1", **fields)
    second = start(user="replica-2", wait=False, **fields)
    second.wait_for("standing by")
    return first, second


def test_when_the_leader_is_killed_the_second_takes_over(plane: ControlPlane, space: Space, start: Start) -> None:
    first, second = pair(start, space)
    space.create(**AGG)
    space.wait_applied()
    first.kill()
    since, killed = plane.audit_offset(), time.monotonic()
    space.edit(limits={"maxNewTokens": 99})
    space.wait_applied(timeout=TAKEOVER_SECONDS)
    assert time.monotonic() - killed < TAKEOVER_SECONDS
    second.wait_for("leading")
    assert writes_of(plane, since, "replica-2")
    assert not writes_of(plane, since, "replica-1")


def test_when_the_leader_is_stopped_the_second_takes_over_at_once(
    plane: ControlPlane, space: Space, start: Start
) -> None:
    first, second = pair(start, space)
    space.create(**AGG)
    space.wait_applied()
    stopped = time.monotonic()
    first.handle.terminate()
    second.wait_for("leading", timeout=30)
    assert time.monotonic() - stopped < LeaseTimes().duration, "it did not wait for the lease to expire"
    assert first.handle.wait(timeout=90) == 0
    assert "Traceback" not in first.log.read_text()


def test_there_are_never_two_writers(plane: ControlPlane, space: Space, start: Start) -> None:
    """The leader is frozen for longer than its lease lasts, as on a machine that was asleep, and comes back."""
    first, second = pair(start, space)
    space.create(**AGG)
    space.wait_applied()
    first.freeze()
    second.wait_for("leading")
    since = plane.audit_offset()
    space.edit(router={"policy": "roundRobin"})
    space.wait_applied()
    first.thaw()
    space.edit(limits={"maxNewTokens": 98})
    space.wait_applied()
    assert first.handle.wait(timeout=90) == 1, "a process that lost the lease ends"
    assert "the leader lease is lost" in first.log_tail()
    assert not writes_of(plane, since, "replica-1")
    assert writes_of(plane, since, "replica-2")


def test_at_rest_nothing_is_written_but_the_lease(plane: ControlPlane, space: Space, start: Start) -> None:
    start(user="resting", lease={"namespace": space.namespace}, namespaces=(space.namespace,))
    for number in range(5):
        space.create(f"chat-{number}", **DISAGG)
    for number in range(5):
        space.wait_condition("Ready", "False", "Unschedulable", name=f"chat-{number}")
    time.sleep(3)  # what the controllers of Kubernetes still have to say
    since = plane.audit_offset()
    time.sleep(IDLE_SECONDS)
    mine = [event for event in plane.audit_events(since=since) if event.user == "resting" and event.is_write]
    assert {(event.verb, event.resource) for event in mine} == {("update", "leases")}
    assert len(mine) <= IDLE_SECONDS / 2 + 1


def test_missing_crds_are_told_and_waited_for(cluster_binaries: Binaries, tmp_path: Path) -> None:
    with running_control_plane(cluster_binaries) as bare:
        operator = OperatorProcess(bare.kubeconfig, tmp_path / "operator.log").start(wait=False)
        try:
            operator.wait_for("the cluster does not know ModelDeployment")
            assert "tandem crds | kubectl apply" in operator.readiness()
            assert operator.http("/livez") == "ok\n"
            install_crds(bare)
            operator.wait_for("leading")
            bare.kubectl("create", "namespace", "team")
            space = Space(Api(bare.kubeconfig), "team")
            space.create(**AGG)
            space.wait_applied()
            assert operator.stop() == 0
            told = [
                line.partition("waiting: ")[2] for line in operator.log.read_text().splitlines() if "waiting: " in line
            ]
            assert len(told) == len(set(told)), "each said once, not at every try"
        finally:
            if operator.handle.poll() is None:
                operator.kill()


def test_crds_that_are_removed_end_the_operator_with_the_reason(cluster_binaries: Binaries, tmp_path: Path) -> None:
    with running_control_plane(cluster_binaries) as bare:
        install_crds(bare)
        operator = OperatorProcess(bare.kubeconfig, tmp_path / "operator.log").start()
        try:
            bare.kubectl("delete", "crd", "modeldeployments.tandem.dev")
            assert operator.handle.wait(timeout=60) == 1
            log = operator.log.read_text()
            assert "Watcher for modeldeployments.v1alpha1.tandem.dev@none has failed: 404" in log
            assert "ending, to be started anew: a watch has failed" in log
            operator.start(wait=False)
            operator.wait_for("the cluster does not know ModelDeployment")
            install_crds(bare)
            operator.wait_for("leading")
        finally:
            if operator.handle.poll() is None:
                operator.kill()


def test_a_namespaced_operator_needs_rights_in_its_namespace_only(
    plane: ControlPlane, space: Space, start: Start
) -> None:
    grant(space.api, space.namespace, "namespaced", OPERATOR_RULES)
    since = plane.audit_offset()
    operator = start(
        user="namespaced",
        kubeconfig=plane.kubeconfig_for("namespaced"),
        namespaces=(space.namespace,),
        lease={"namespace": space.namespace},
    )
    space.create(**DISAGG)
    space.wait_condition("Ready", "False", "Unschedulable")
    space.edit(mode="agg", roles={"prefill": None, "decode": None, "agg": {}})
    space.wait_condition("Ready", "False", "Unschedulable")
    assert operator.stop() == 0
    mine = [event for event in plane.audit_events(since=since) if event.user == "namespaced" and event.resource]
    assert Counter(event.namespace for event in mine).keys() == {space.namespace}
    assert [event for event in mine if event.status == 403] == []


def test_a_missing_right_is_told_and_waited_for(plane: ControlPlane, space: Space, start: Start) -> None:
    operator = start(
        user="rightless",
        kubeconfig=plane.kubeconfig_for("rightless"),
        namespaces=(space.namespace,),
        wait=False,
    )
    operator.wait_for("cannot list resource")
    assert "bind the Role or ClusterRole of the chart" in operator.readiness()
    assert operator.handle.poll() is None


def test_it_goes_on_after_the_api_server_was_away(plane: ControlPlane, space: Space, start: Start) -> None:
    operator = start(namespaces=(space.namespace,))
    space.create(**AGG)
    space.wait_applied()
    plane.restart_apiserver()
    space.api.delete("Service", space.namespace, "chat")
    space.edit(limits={"maxNewTokens": 97})
    space.wait_applied(timeout=60)
    eventually(lambda: space.child("Service", "chat"), timeout=60)
    assert operator.handle.poll() is None


def test_what_was_deleted_while_it_was_down_is_made_again(space: Space, start: Start) -> None:
    first = start(namespaces=(space.namespace,))
    space.create(**AGG)
    space.wait_applied()
    first.kill()
    space.api.delete("Service", space.namespace, "chat")
    (workers,) = space.workers("agg")
    space.api.merge("Deployment", space.namespace, workers["metadata"]["name"], {"spec": {"replicas": 9}})
    start(namespaces=(space.namespace,))
    eventually(lambda: space.child("Service", "chat"))
    eventually(lambda: space.workers("agg")[0]["spec"]["replicas"], lambda replicas: replicas == 2)


def test_an_operator_restarted_at_rest_writes_nothing(plane: ControlPlane, space: Space, start: Start) -> None:
    first = start(namespaces=(space.namespace,))
    space.create(**DISAGG)
    space.wait_condition("Ready", "False", "Unschedulable")
    assert first.stop() == 0
    since = plane.audit_offset()
    second = start(namespaces=(space.namespace,), user="restarted")
    eventually(lambda: 'tandem_reconciles_total{kind="ModelDeployment",result="ok"}' in second.http("/metrics"))
    assert second.stop() == 0
    assert writes_of(plane, since, "restarted") == []


def test_credentials_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "clusters": []}))
    process = OperatorProcess(broken, tmp_path / "operator.log").start(wait=False)
    assert process.handle.wait(timeout=30) == 1
    said = process.log.read_text()
    assert f"{broken}: this kubeconfig has no current-context" in said
    assert "Traceback" not in said


def test_log_lines_can_be_json(space: Space, start: Start) -> None:
    operator = start(namespaces=(space.namespace,), settings={"log_format": "json"})
    assert operator.stop() == 0
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert condition(space.create(**AGG), "Ready") == {}, "nobody is there any more"


def test_the_operator_imports_no_torch(start: Start, space: Space) -> None:
    operator = start(namespaces=(space.namespace,), user=USER)
    maps = Path(f"/proc/{operator.handle.pid}/maps").read_text()
    assert "torch" not in maps
