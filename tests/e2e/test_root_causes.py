"""What is wrong with a pod stands in the deployment's status within seconds: nobody has to look for the pod.

All cases run at once; a watcher notes when each pod showed its trouble and when the deployment told it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.release import make_namespace
from tests.e2e.workspace import CLAIM, MODEL_PATH, SMALL, Object, Workspace, condition_of, model_deployment

pytestmark = pytest.mark.e2e

LIMIT_SECONDS = 10
GIVE_UP_SECONDS = 150
QUOTA_NAMESPACE = "team-quota"


@dataclass(frozen=True)
class View:
    """What the cluster shows of one deployment."""

    deployment: Object
    pods: list[Object]
    events: list[Object]
    replica_sets: list[Object]

    def waiting(self, *reasons: str) -> bool:
        """Whether a worker's container waits for one of these reasons."""
        return any(state.get("waiting", {}).get("reason") in reasons for state in self._states("state"))

    def ended(self, *, reason: str = "", code: int | None = None) -> bool:
        """Whether a worker's container has ended so."""
        ends = [
            state["terminated"]
            for name in ("state", "lastState")
            for state in self._states(name)
            if "terminated" in state
        ]
        return any((not reason or end.get("reason") == reason) and code in (None, end["exitCode"]) for end in ends)

    def unschedulable(self) -> bool:
        """Whether the scheduler found no place."""
        conditions = [condition_of(pod, "PodScheduled") for pod in self.pods]
        return any(condition.get("reason") == "Unschedulable" for condition in conditions)

    def not_created(self) -> bool:
        """Whether a ReplicaSet may not make its pods."""
        return any(condition_of(item, "ReplicaFailure").get("status") == "True" for item in self.replica_sets)

    def event(self, words: str) -> bool:
        """Whether an event about a pod says so."""
        return any(words in event.get("message", "") for event in self.events)

    def _states(self, name: str) -> Iterator[Object]:
        for pod in self.pods:
            for status in pod["status"].get("containerStatuses", []):
                yield status.get(name, {})


@dataclass(frozen=True)
class Case:
    """A deployment that cannot work, what its pods show, and what its status must say."""

    name: str
    spec: Object
    symptom: Callable[[View], bool]
    reason: str
    words: tuple[str, ...]
    namespace: str = "team-a"


@dataclass
class Record:
    """When something was first seen, in seconds of the watcher's clock."""

    shown: float | None = None
    told: float | None = None
    last: Object = field(default_factory=dict)


def agg(**role: Any) -> Object:
    return {"roles": {"agg": {"resources": SMALL, **role}}}


def overlay(**container: Any) -> Object:
    return agg(podTemplate={"spec": {"containers": [{"name": "server", **container}]}})


CASES = (
    Case(
        "image-missing",
        {"image": "localhost/no-such-image:1", "imagePullPolicy": "IfNotPresent"},
        lambda view: view.waiting("ErrImagePull", "ImagePullBackOff"),
        "ImagePullBackOff",
        ("localhost/no-such-image:1",),
    ),
    Case(
        "command-wrong",
        overlay(command=["/no/such/program"]),
        lambda view: view.ended(reason="StartError") or view.waiting("RunContainerError"),
        "StartError",
        ("/no/such/program",),
    ),
    Case(
        "path-missing",
        {"model": {"pvc": {"claimName": CLAIM, "path": "no-such-model"}}},
        lambda view: view.ended(reason="Error"),
        "ModelNotFound",
        ("no-such-model",),
    ),
    Case(
        "out-of-memory",
        {**agg(resources={**SMALL, "limits": {"memory": "96Mi"}}), "overrideFits": True},
        lambda view: view.ended(reason="OOMKilled"),
        "OOMKilled",
        ("memory",),
    ),
    Case(
        "no-node",
        agg(podTemplate={"spec": {"nodeSelector": {"example.com/none": "x"}}}),
        View.unschedulable,
        "Unschedulable",
        ("node",),
    ),
    Case(
        "claim-missing",
        {"model": {"pvc": {"claimName": "no-such-claim", "path": MODEL_PATH}}},
        View.unschedulable,
        "PersistentVolumeClaimNotFound",
        ("no-such-claim",),
    ),
    Case(
        "secret-missing",
        {"model": {"hub": {"repo": "nobody/nothing", "tokenSecretRef": {"name": "no-such-secret", "key": "token"}}}},
        lambda view: view.waiting("CreateContainerConfigError"),
        "SecretNotFound",
        ("no-such-secret",),
    ),
    Case(
        "keys-missing",
        {"access": {"apiKeysSecretRef": {"name": "no-such-keys"}}},
        lambda view: view.event('secret "no-such-keys" not found'),
        "SecretNotFound",
        ("no-such-keys",),
    ),
    Case(
        "quota-exceeded",
        {},
        View.not_created,
        "QuotaExceeded",
        ("exceeded quota",),
        namespace=QUOTA_NAMESPACE,
    ),
    Case(
        "readiness-failing",
        overlay(readinessProbe={"httpGet": {"path": "/no-such-path", "port": "http"}, "periodSeconds": 1}),
        lambda view: view.event("Readiness probe failed: HTTP probe failed with statuscode: 404"),
        "ReadinessProbeFailed",
        ("404",),
    ),
)


@pytest.fixture(scope="module")
def records(workspace: Workspace) -> Iterator[dict[str, Record]]:
    """All cases, applied together and watched until each is told or time is up."""
    cluster = workspace.cluster
    make_namespace(cluster, QUOTA_NAMESPACE)
    quota = Workspace(cluster, QUOTA_NAMESPACE)
    quota.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    spaces = {workspace.namespace: workspace, QUOTA_NAMESPACE: quota}
    for case in CASES:
        spaces[case.namespace].apply(model_deployment(case.name, **case.spec))
    found = {case.name: Record() for case in CASES}
    started = time.monotonic()
    while time.monotonic() - started < GIVE_UP_SECONDS and not all(record.told for record in found.values()):
        seen = cluster.get("pods,replicasets,events,modeldeployments", "--all-namespaces")["items"]
        for case in CASES:
            _note(case, found[case.name], seen, time.monotonic() - started)
        time.sleep(0.3)
    yield found
    for space in spaces.values():
        space.delete(*(case.name for case in CASES if case.namespace == space.namespace))


def _note(case: Case, record: Record, seen: list[Object], now: float) -> None:
    own = [item for item in seen if item["metadata"]["namespace"] == case.namespace]
    (deployment,) = [
        item for item in own if item["kind"] == "ModelDeployment" and item["metadata"]["name"] == case.name
    ]
    view = View(
        deployment=deployment,
        pods=[item for item in own if item["kind"] == "Pod" and _is_worker(item, case.name)],
        replica_sets=[item for item in own if item["kind"] == "ReplicaSet" and _is_worker(item, case.name)],
        events=[
            item for item in own if item["kind"] == "Event" and item["involvedObject"]["name"].startswith(case.name)
        ],
    )
    if record.shown is None and case.symptom(view):
        record.shown = now
    record.last = deployment.get("status", {})
    if record.told is None and _is_told(case, deployment):
        record.told = now


def _is_worker(item: Object, name: str) -> bool:
    found = item["metadata"].get("labels", {})
    return found.get("tandem.dev/deployment") == name and "tandem.dev/role" in found


def _is_told(case: Case, deployment: Object) -> bool:
    cause = deployment.get("status", {}).get("rootCause") or {}
    ready = condition_of(deployment, "Ready")
    told = cause.get("reason") == case.reason and all(word in cause.get("message", "") for word in case.words)
    return told and ready.get("status") == "False" and all(word in ready.get("message", "") for word in case.words)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_cause_is_told_soon_after_the_pod_shows_it(records: dict[str, Record], case: Case) -> None:
    record = records[case.name]
    status = json.dumps({key: record.last.get(key) for key in ("rootCause", "conditions")}, indent=1)
    assert record.shown is not None, f"the pod never showed it\n{status}"
    assert record.told is not None, f"shown after {record.shown:.1f} s, never told\n{status}"
    assert record.told - record.shown <= LIMIT_SECONDS, f"{record.shown:.1f} s → {record.told:.1f} s\n{status}"
