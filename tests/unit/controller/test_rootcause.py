"""The first thing that is wrong is named from what pods say of themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tandem.controller.hints import Hint
from tandem.controller.rootcause import Cause, first_cause, pod_cause, settled
from tests.unit.controller.samples import container, ended, pod, refusing, running, unscheduled, waiting

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
JUST_NOW = (NOW - timedelta(seconds=1)).isoformat()

PULL = (
    'Back-off pulling image "registry.example/none:1": ErrImagePull: failed to pull and unpack image '
    '"registry.example/none:1": failed to resolve reference: registry.example/none:1: not found'
)
EXEC = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: exec: "/no/such/program": stat /no/such/program: no such file or directory'
)

# pod → reason, exit code, words of the message
TABLE: dict[str, tuple[dict[str, Any], str, int | None, str]] = {
    "pulling has failed": (waiting("ErrImagePull", "rpc error: code = NotFound"), "ImagePullBackOff", None, "NotFound"),
    "pulling waits": (waiting("ImagePullBackOff", PULL), "ImagePullBackOff", None, "registry.example/none:1"),
    "never to be pulled": (
        waiting("ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never'),
        "ErrImageNeverPull",
        None,
        "x:1",
    ),
    "no image name": (
        waiting("InvalidImageName", 'Failed to apply default image tag "UPPER": couldn\'t parse image name'),
        "InvalidImageName",
        None,
        "UPPER",
    ),
    "program not there, first try": (waiting("RunContainerError", EXEC), "StartError", None, "/no/such/program"),
    "program not there, between tries": (
        ended(128, reason="StartError", message=EXEC),
        "StartError",
        128,
        "/no/such/program",
    ),
    "container cannot be created": (
        waiting("CreateContainerError", "context deadline exceeded"),
        "CreateContainerError",
        None,
        "deadline",
    ),
    "model directory not there": (
        ended(1, message="--model = /models/none: there is no such directory. Fix: give the directory of a model"),
        "ModelNotFound",
        1,
        "/models/none",
    ),
    "model directory without config": (
        ended(1, message="/models/qwen/config.json: the directory has no config.json, so it is not a model. Fix: …"),
        "ModelNotFound",
        1,
        "config.json",
    ),
    "model directory without weights": (
        ended(1, message="/models/qwen: there is no model.safetensors. Fix: give a directory with safetensors weights"),
        "ModelNotFound",
        1,
        "model.safetensors",
    ),
    "a config that is no model's is a mistake of another kind": (
        ended(1, message="/models/qwen/config.json: malformed JSON: Expecting value. Fix: download it again"),
        "ContainerFailed",
        1,
        "malformed",
    ),
    "vLLM takes a missing path for a repository": (
        ended(1, message="OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/none'"),
        "ModelNotFound",
        1,
        "/models/none",
    ),
    "killed for memory": (ended(137, reason="OOMKilled"), "OOMKilled", 137, "memory"),
    "out of GPU memory": (
        ended(1, message="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
        "OutOfMemory",
        1,
        "CUDA",
    ),
    "any other end": (ended(3, message="Traceback: boom"), "ContainerFailed", 3, "boom"),
    "an end without a word": (ended(2), "ContainerFailed", 2, "exit code 2"),
    "an end without an error": (ended(0, reason="Completed"), "ContainerCompleted", 0, "by itself"),
    "no node fits": (
        unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available"),
        "Unschedulable",
        None,
        "nvidia.com/gpu",
    ),
    "claim not there": (
        unscheduled('0/1 nodes are available: persistentvolumeclaim "models" not found. not found'),
        "PersistentVolumeClaimNotFound",
        None,
        "models",
    ),
    "claim not bound": (
        unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        "PersistentVolumeClaimNotBound",
        None,
        "unbound",
    ),
    "secret not there": (
        waiting("CreateContainerConfigError", 'secret "hf" not found'),
        "SecretNotFound",
        None,
        '"hf"',
    ),
    "key of a secret not there": (
        waiting("CreateContainerConfigError", "couldn't find key token in Secret ns/hf"),
        "SecretKeyNotFound",
        None,
        "token",
    ),
    "configuration not there": (
        waiting("CreateContainerConfigError", 'configmap "rules" not found'),
        "ConfigMapNotFound",
        None,
        "rules",
    ),
    "image that runs as root": (
        waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
        "CreateContainerConfigError",
        None,
        "root",
    ),
    "started, but not ready": (running(ready=False), "ReadinessProbeFailed", None, "not ready"),
}


@pytest.mark.parametrize("case", TABLE)
def test_cause_is_named(case: str) -> None:
    sample, reason, exit_code, words = TABLE[case]
    cause = pod_cause(sample, now=NOW)
    assert cause is not None
    assert (cause.reason, cause.exit_code) == (reason, exit_code)
    assert words in cause.message
    assert cause.pod == sample["metadata"]["name"]
    if "containerStatuses" in sample["status"]:
        assert cause.container == "server"


WELL: dict[str, dict[str, Any]] = {
    "ready": running(ready=True),
    "ready again after a crash": running(ready=True, lastState={"terminated": {"exitCode": 1}}, restartCount=1),
    "loading: not past its startup probe": running(ready=False, started=False),
    "ready any moment": running(ready=False, since=JUST_NOW),
    "a router that has just started": running(ready=False, since=JUST_NOW, name="router"),
    "not scheduled yet": pod(conditions=[]),
    "being created": waiting("ContainerCreating"),
    "waiting for init containers": waiting("PodInitializing"),
    "init containers done": pod(
        initContainerStatuses=[container(name="init", ready=True, state={"terminated": {"exitCode": 0}})],
        containerStatuses=[container(state={"waiting": {"reason": "PodInitializing"}})],
    ),
    "evicted: over, replaced by another": pod(phase="Failed", reason="Evicted", message="node was low on memory"),
    "ending": {
        **ended(137),
        "metadata": {**ended(137)["metadata"], "deletionTimestamp": "2026-11-21T12:00:00Z"},
    },
}


@pytest.mark.parametrize("case", WELL)
def test_nothing_is_wrong(case: str) -> None:
    assert pod_cause(WELL[case], now=NOW) is None


def test_a_failing_init_container_is_found() -> None:
    sample = pod(
        initContainerStatuses=[
            container(
                name="fetch",
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"exitCode": 7, "reason": "Error", "message": "no route"}},
            )
        ],
        containerStatuses=[container(state={"waiting": {"reason": "PodInitializing"}})],
    )
    cause = pod_cause(sample, now=NOW)
    assert cause is not None
    assert (cause.container, cause.exit_code, cause.message) == ("fetch", 7, "no route")


def test_a_crash_is_told_in_every_phase_of_its_loop_in_the_same_words() -> None:
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": "boom"}}
    phases = [
        container(state=last),
        container(state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, lastState=last),
        container(state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}, lastState=last),
        container(state={"running": {"startedAt": JUST_NOW}}, started=False, lastState=last),
    ]
    causes = {pod_cause(pod(containerStatuses=[phase]), now=NOW) for phase in phases}
    assert len(causes) == 1


ATTEMPT = 'pods "chat-agg-1a2b-7d9f-x7k2p" is forbidden: '
REFUSED = {
    f"{ATTEMPT}exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4": (
        "QuotaExceeded",
        "exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4",
    ),
    f'{ATTEMPT}violates PodSecurity "restricted:latest": allowPrivilegeEscalation': (
        "PodSecurityViolation",
        'violates PodSecurity "restricted:latest": allowPrivilegeEscalation',
    ),
    f'{ATTEMPT}error looking up service account ns/w: serviceaccount "w" not found': (
        "ServiceAccountNotFound",
        'error looking up service account ns/w: serviceaccount "w" not found',
    ),
    'admission webhook "deny.example" denied the request: no': (
        "PodCreationFailed",
        'admission webhook "deny.example" denied the request: no',
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_pods_that_may_not_be_made_come_first_and_without_the_name_of_the_attempt(message: str) -> None:
    cause = first_cause([refusing(message)], [ended(137, reason="OOMKilled")], hints={}, now=NOW)
    assert cause == Cause(*REFUSED[message])


def test_the_first_pod_with_a_cause_counts() -> None:
    pods = [running(ready=True), waiting("ErrImageNeverPull", "first"), waiting("InvalidImageName", "second")]
    cause = first_cause([], pods, hints={}, now=NOW)
    assert cause is not None
    assert cause.reason == "ErrImageNeverPull"


HINTED: dict[str, tuple[dict[str, Any], Hint, str, str]] = {
    "the readiness probe's own words": (
        running(ready=False),
        Hint("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404", "Readiness"),
        "ReadinessProbeFailed",
        "404",
    ),
    "killed by the liveness probe": (
        ended(137),
        Hint("Unhealthy", "Liveness probe failed: context deadline exceeded", "Liveness"),
        "LivenessProbeFailed",
        "deadline",
    ),
    "killed by the startup probe": (
        ended(143),
        Hint("Unhealthy", "Startup probe failed: connection refused", "Startup"),
        "StartupProbeFailed",
        "refused",
    ),
    "a secret as a volume that is not there": (
        waiting("ContainerCreating"),
        Hint("FailedMount", 'MountVolume.SetUp failed for volume "s" : secret "keys" not found'),
        "SecretNotFound",
        "keys",
    ),
    "a volume that cannot be mounted": (
        waiting("ContainerCreating"),
        Hint("FailedMount", "MountVolume.MountDevice failed: rpc error"),
        "VolumeMountFailed",
        "rpc error",
    ),
    "no network for the pod": (
        waiting("ContainerCreating"),
        Hint("FailedCreatePodSandBox", "plugin type=bridge failed"),
        "SandboxFailed",
        "bridge",
    ),
    "a pull secret that is not there": (
        waiting("ImagePullBackOff", "pull access denied"),
        Hint("FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (regcred)"),
        "ImagePullBackOff",
        "regcred",
    ),
    "memory counts more than what a probe said": (
        ended(137, reason="OOMKilled"),
        Hint("Unhealthy", "Liveness probe failed", "Liveness"),
        "OOMKilled",
        "memory",
    ),
}


@pytest.mark.parametrize("case", HINTED)
def test_events_tell_what_the_pod_does_not(case: str) -> None:
    sample, hint, reason, words = HINTED[case]
    cause = pod_cause(sample, hint=hint, now=NOW)
    assert cause is not None
    assert cause.reason == reason
    assert words in cause.message


def test_two_wordings_of_one_failed_pull_do_not_alternate() -> None:
    long, short = (
        pod_cause(waiting("ImagePullBackOff", PULL), now=NOW),
        pod_cause(waiting("ErrImagePull", "x"), now=NOW),
    )
    assert settled(long, short) == long
    assert settled(short, long) == long
    assert settled(None, short) == short
    assert settled(long, None) is None


def test_a_long_message_keeps_its_end() -> None:
    cause = pod_cause(ended(1, message="x" * 5000 + "the last line"), now=NOW)
    assert cause is not None
    assert len(cause.message) <= 1024
    assert cause.message.endswith("the last line")


@pytest.mark.parametrize(
    ("reason", "concerns"), [("ModelNotFound", True), ("PersistentVolumeClaimNotFound", True), ("OOMKilled", False)]
)
def test_some_causes_concern_the_model(reason: str, concerns: bool) -> None:
    assert Cause(reason, "").concerns_model is concerns
