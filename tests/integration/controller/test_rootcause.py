"""What a pod shows stands in the status of its deployment soon after, and goes when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.controller.api import Api, Object, eventually
from tests.integration.controller.node import ToldNode, container, now, serving, status
from tests.integration.controller.space import Space, condition

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

LIMIT_SECONDS = 10.0
Behaviour = Callable[[Object], Object]


def is_worker(pod: Object) -> bool:
    return "tandem.dev/role" in pod["metadata"]["labels"]


def showing(phase: str = "Pending", **fields: Any) -> Behaviour:
    """Workers whose container shows this; the router serves."""

    def behave(pod: Object) -> Object:
        if not is_worker(pod):
            return serving(pod)
        since = pod["metadata"]["creationTimestamp"]
        return status(phase, ready=False, since=since, containers=[container(pod, **fields)])

    return behave


def waiting(reason: str, message: str) -> Behaviour:
    return showing(state={"waiting": {"reason": reason, "message": message}})


def crashing(exit_code: int, reason: str, message: str) -> Behaviour:
    last = {"exitCode": exit_code, "reason": reason, "message": message, "startedAt": now(), "finishedAt": now()}
    back_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    return showing("Running", state=back_off, lastState={"terminated": last}, restartCount=4, started=False)


CASES: dict[str, tuple[Behaviour, str, int | None, str]] = {
    "image that cannot be pulled": (
        waiting("ImagePullBackOff", 'Back-off pulling image "registry.example/none:1": ErrImagePull: not found'),
        "ImagePullBackOff",
        None,
        "registry.example/none:1",
    ),
    "image that must not be pulled": (
        waiting("ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never'),
        "ErrImageNeverPull",
        None,
        "x:1",
    ),
    "wrong command": (
        crashing(128, "StartError", 'runc create failed: exec: "/no/such/program": no such file or directory'),
        "StartError",
        128,
        "/no/such/program",
    ),
    "model path missing": (
        crashing(1, "Error", "--model = /models/none: there is no such directory. Fix: give the directory of a model"),
        "ModelNotFound",
        1,
        "/models/none",
    ),
    "out of memory": (crashing(137, "OOMKilled", ""), "OOMKilled", 137, "memory"),
    "missing secret": (
        waiting("CreateContainerConfigError", 'secret "hf" not found'),
        "SecretNotFound",
        None,
        "hf",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_told_with_pod_and_container(space: Space, node: ToldNode, case: str) -> None:
    behave, reason, exit_code, words = CASES[case]
    node.behave = behave
    space.create(mode="agg", roles={"agg": {"replicas": 1}})
    found = eventually(space.status, lambda seen: seen.get("rootCause", {}).get("reason") == reason, timeout=30)
    (pod,) = space.pods("tandem.dev/role=agg")
    cause = found["rootCause"]
    assert (cause["pod"], cause["container"]) == (pod["metadata"]["name"], "server")
    assert cause.get("exitCode") == exit_code
    assert words in cause["message"]
    ready = condition({"status": found}, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert words in ready["message"]
    assert condition({"status": found}, "Degraded")["status"] == "True"

    node.behave = serving
    status_then = space.wait_condition("Ready", "True")
    assert "rootCause" not in status_then


def test_a_cause_is_told_within_seconds_of_the_pod_showing_it(space: Space, node: ToldNode) -> None:
    space.create(mode="agg", roles={"agg": {"replicas": 1}})
    space.wait_condition("Ready", "True")
    node.behave = crashing(137, "OOMKilled", "")
    eventually(
        lambda: space.pods("tandem.dev/role=agg")[0]["status"]["containerStatuses"][0].get("lastState"),
        timeout=30,
    )
    shown = time.monotonic()
    space.wait_condition("Ready", "False", "OOMKilled", timeout=LIMIT_SECONDS)
    assert time.monotonic() - shown < LIMIT_SECONDS


def test_failing_readiness_is_told_in_the_words_of_the_probe(api: Api, space: Space, node: ToldNode) -> None:
    space.create(mode="agg", roles={"agg": {"replicas": 1}})
    space.wait_condition("Ready", "True")

    def unready(pod: Object) -> Object:
        if not is_worker(pod):
            return serving(pod)
        running = container(pod, started=True, state={"running": {"startedAt": pod["metadata"]["creationTimestamp"]}})
        since = (pod["metadata"].get("annotations") or {}).get("since") or stopped
        return status("Running", ready=False, since=since, containers=[running])

    stopped = now()
    node.behave = unready
    (pod,) = space.pods("tandem.dev/role=agg")
    _post_event(api, pod, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
    found = space.wait_condition("Ready", "False", "ReadinessProbeFailed", timeout=LIMIT_SECONDS + 5)
    found = eventually(space.status, lambda seen: "503" in seen.get("rootCause", {}).get("message", ""), timeout=15)
    assert found["rootCause"]["container"] == "server"


def test_a_volume_that_cannot_be_mounted_is_told_from_events(api: Api, space: Space, node: ToldNode) -> None:
    node.behave = showing(state={"waiting": {"reason": "ContainerCreating"}})
    space.create(mode="agg", roles={"agg": {"replicas": 1}})
    (pod,) = eventually(lambda: space.pods("tandem.dev/role=agg"))
    _post_event(api, pod, "FailedMount", 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found')
    found = space.wait_condition("Ready", "False", "SecretNotFound", timeout=30)
    assert "keys" in found["rootCause"]["message"]


def test_a_missing_secret_with_the_api_keys_is_told_with_the_routers_pod(
    api: Api, space: Space, node: ToldNode
) -> None:
    def without_keys(pod: Object) -> Object:
        if is_worker(pod):
            return serving(pod)
        waits = container(pod, state={"waiting": {"reason": "ContainerCreating"}})
        return status("Pending", ready=False, since=pod["metadata"]["creationTimestamp"], containers=[waits])

    node.behave = without_keys
    space.create(mode="agg", access={"apiKeysSecretRef": {"name": "clients"}})
    (pod,) = eventually(lambda: space.pods("app.kubernetes.io/component=router"))
    assert {"name": "api-keys", "secret": {**_secret(pod), "secretName": "clients"}} in pod["spec"]["volumes"]
    _post_event(api, pod, "FailedMount", 'MountVolume.SetUp failed for volume "api-keys" : secret "clients" not found')
    found = space.wait_condition("RouterReady", "False", "SecretNotFound", timeout=30)
    assert "clients" in found["rootCause"]["message"]
    assert found["rootCause"]["pod"] == pod["metadata"]["name"]

    node.behave = serving
    space.wait_condition("Ready", "True")


def _secret(pod: Object) -> Object:
    return next(volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume)


def test_unschedulable_pods_are_told(space: Space, node: ToldNode) -> None:
    space.create(mode="agg", roles={"agg": {"podTemplate": {"spec": {"nodeSelector": {"example.com/gpu": "yes"}}}}})
    found = space.wait_condition("Ready", "False", "Unschedulable")
    assert "node" in found["rootCause"]["message"]


def test_a_missing_claim_is_told(space: Space, node: ToldNode) -> None:
    space.create(mode="agg", model={"pvc": {"claimName": "no-such-claim", "path": "qwen"}})
    found = space.wait_condition("Ready", "False", "PersistentVolumeClaimNotFound")
    assert "no-such-claim" in found["rootCause"]["message"]
    assert condition({"status": found}, "ModelReady")["status"] == "False"


def test_a_quota_on_pods_is_told(api: Api, space: Space) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
    api.request("POST", f"/api/v1/namespaces/{space.namespace}/resourcequotas", quota)
    eventually(
        lambda: api.request("GET", f"/api/v1/namespaces/{space.namespace}/resourcequotas/q")["status"],
        lambda seen: "hard" in seen,
    )
    space.create(mode="agg")
    found = space.wait_condition("Ready", "False", "QuotaExceeded")
    assert found["rootCause"]["message"].startswith("exceeded quota: q")


def _post_event(api: Api, pod: Object, reason: str, message: str) -> None:
    metadata = pod["metadata"]
    reference = {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "test.", "namespace": metadata["namespace"]},
        "involvedObject": {"apiVersion": "v1", **reference},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
    }
    api.create(event)
