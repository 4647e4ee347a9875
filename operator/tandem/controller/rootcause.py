"""Why workers are not up, told from what pods and Deployments themselves say: the first thing that is wrong.

Reasons are stable words: where the kubelet has a clear one it is kept (`OOMKilled`, `ErrImageNeverPull`), where it has
two for one cause (`ErrImagePull`, `ImagePullBackOff`) or one for several (`CreateContainerConfigError`), ours tells
what it is. Messages leave out what changes with every attempt, so that a status that says the same stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tandem.controller.hints import Hint
from tandem.kube.resources import LEADER_WORKER_SET
from tandem.manifests import names

Document = Mapping[str, Any]

# A worker has passed its startup probe by then; the router has none and may need longer.
READINESS_GRACE_SECONDS = 3.0
ROUTER_GRACE_SECONDS = 20.0
# Within this time a controller that runs has looked at a new object.
UNSEEN_SECONDS = 30.0
LONGEST_MESSAGE = 1024

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"})
_AS_IT_IS = frozenset({"ErrImageNeverPull", "InvalidImageName", "CreateContainerError", "SignatureValidationFailed"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
# Killed by signal: the exit codes that a failed liveness or startup probe ends in.
_KILLED = frozenset({137, 143})

_MISSING = (
    (re.compile(r'persistentvolumeclaim "?([^" ]+)"? not found', re.IGNORECASE), "PersistentVolumeClaimNotFound"),
    (re.compile(r"unbound immediate PersistentVolumeClaims"), "PersistentVolumeClaimNotBound"),
    (re.compile(r"couldn't find key \S+ in Secret"), "SecretKeyNotFound"),
    (re.compile(r"couldn't find key \S+ in ConfigMap"), "ConfigMapKeyNotFound"),
    (re.compile(r"references non-existent secret key"), "SecretKeyNotFound"),
    (re.compile(r"references non-existent config key"), "ConfigMapKeyNotFound"),
    (re.compile(r'secrets? "[^"]+" not found', re.IGNORECASE), "SecretNotFound"),
    (re.compile(r'configmaps? "[^"]+" not found', re.IGNORECASE), "ConfigMapNotFound"),
)
_REFUSED_PODS = (
    (re.compile(r"exceeded quota"), "QuotaExceeded"),
    (re.compile(r"violates PodSecurity"), "PodSecurityViolation"),
    (re.compile(r'serviceaccount "[^"]+" not found', re.IGNORECASE), "ServiceAccountNotFound"),
)
_TERMINATION = (
    (re.compile(r"out of memory|OutOfMemoryError", re.IGNORECASE), "OutOfMemory"),
    (
        re.compile(
            r"(model|config\.json|/models)[^\n]*"
            r"(no such (file|directory)|not a directory|does not exist|not found"
            r"|has no config\.json|are missing|there is no )"
            r"|(no such (file|directory)|does not exist|not found)[^\n]*(/models|model|config\.json)"
            r"|Repo id must be in the form",
            re.IGNORECASE,
        ),
        "ModelNotFound",
    ),
)
# `pods "chat-agg-1a2b-x7k2p" is forbidden: …`: the name differs with every attempt.
_ATTEMPT = re.compile(r'^pods "[^"]*" is forbidden: ')
_ATTEMPT_OF_SET = re.compile(r"^create Pod \S+ in StatefulSet \S+ failed error: ")


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong, and where."""

    reason: str
    message: str
    pod: str = ""
    container: str = ""
    exit_code: int | None = None

    @property
    def concerns_model(self) -> bool:
        """Whether it is about the model's files rather than about running them."""
        return self.reason in ("ModelNotFound", "PersistentVolumeClaimNotFound", "PersistentVolumeClaimNotBound")


def first_cause(
    workloads: Sequence[Document], pods: Sequence[Document], *, hints: Mapping[str, Hint], now: datetime
) -> Cause | None:
    """The first thing that is wrong with these workloads and their pods; both come in order of importance.

    What keeps pods from being made comes before what is wrong with those that exist; `hints` are by the uid of a pod or
    workload.
    """
    for workload in workloads:
        hint = hints.get(workload["metadata"].get("uid", ""))
        cause = refused_pods(workload) or unmade_pods(hint) or left_alone(workload, now)
        if cause is not None:
            return cause
    for pod in pods:
        cause = pod_cause(pod, hint=hints.get(pod["metadata"]["uid"]), now=now)
        if cause is not None:
            return cause
    return None


def refused_pods(deployment: Document) -> Cause | None:
    """Why the API server refuses to create a Deployment's pods."""
    for condition in _conditions(deployment):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message = _ATTEMPT.sub("", condition.get("message", ""))
            return Cause(_word(_REFUSED_PODS, message) or "PodCreationFailed", _shown(message))
    return None


def unmade_pods(hint: Hint | None) -> Cause | None:
    """Why the API server refuses to create a LeaderWorkerSet's pods, which only Events tell."""
    if hint is None or hint.reason != "FailedCreate":
        return None
    message = _ATTEMPT.sub("", _ATTEMPT_OF_SET.sub("", hint.message))
    return Cause(_word(_REFUSED_PODS, message) or "PodCreationFailed", _shown(message))


def left_alone(workload: Document, now: datetime) -> Cause | None:
    """Why nothing becomes of a LeaderWorkerSet; None while its controller may still take it up."""
    left = until_left_alone(workload, now)
    if left is None or left > 0:
        return None
    name = workload["metadata"]["name"]
    asked = "does its controller run, and is it version 0.9.0 or newer?"
    return Cause("LeaderWorkerSetLeftAlone", f"nothing has taken up LeaderWorkerSet {name}: {asked}")


def until_left_alone(workload: Document, now: datetime) -> float | None:
    """Seconds until a LeaderWorkerSet counts as left alone; None when it was taken up (and for Deployments)."""
    created = workload["metadata"].get("creationTimestamp")
    seen = "observedGeneration" in (workload.get("status") or {})
    if workload.get("kind") != LEADER_WORKER_SET.kind or seen or not created:
        return None
    return UNSEEN_SECONDS - (now - datetime.fromisoformat(created)).total_seconds()


def pod_cause(pod: Document, *, hint: Hint | None = None, now: datetime) -> Cause | None:
    """What is wrong with one pod; None when it is well, on its way, ending, or over."""
    ends = pod["metadata"].get("deletionTimestamp") and not _ends_its_group(pod)
    if ends or pod["status"].get("phase") in ("Failed", "Succeeded"):
        return None
    name = pod["metadata"]["name"]
    for condition in _conditions(pod):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message", "")
            return Cause(_word(_MISSING, message) or "Unschedulable", _shown(message), pod=name)
    status = pod["status"]
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        found = _container_cause(container, pod=pod, hint=hint, now=now)
        if found is not None:
            return Cause(found.reason, _shown(found.message), name, container["name"], found.exit_code)
    return None


def _ends_its_group(pod: Document) -> bool:
    """Whether a container of a worker of several pods has ended by itself: all of them are replaced then."""
    return names.LABEL_GROUP in (pod["metadata"].get("labels") or {}) and any(
        container.get("restartCount") for container in pod["status"].get("containerStatuses") or ()
    )


def settled(previous: Cause | None, found: Cause | None) -> Cause | None:
    """`found`, with the message of `previous` kept where the kubelet tells the same in turns of two wordings."""
    if previous is None or found is None:
        return found
    place = (found.reason, found.pod, found.container)
    if found.reason == "ImagePullBackOff" and place == (previous.reason, previous.pod, previous.container):
        return previous if len(previous.message) >= len(found.message) else found
    return found


def _container_cause(container: Document, *, pod: Document, hint: Hint | None, now: datetime) -> Cause | None:
    state = container.get("state") or {}
    waiting = state.get("waiting")
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if waiting is not None:
        cause = _waiting_cause(waiting, hint)
        if cause is not None:
            exit_code = ended.get("exitCode") if ended and cause.reason == "StartError" else None
            return Cause(cause.reason, cause.message, exit_code=exit_code)
    if container.get("ready"):
        return None
    if ended:
        return _termination_cause(ended, hint)
    if "running" in state and container.get("started", True):
        return _unready_cause(container, pod, hint, now)
    return None


def _waiting_cause(waiting: Document, hint: Hint | None) -> Cause | None:
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULL:
        missing = hint is not None and hint.reason == "FailedToRetrieveImagePullSecret"
        return Cause("ImagePullBackOff", f"{message} ({hint.message})" if missing and hint else message)
    if reason in _AS_IT_IS:
        return Cause(reason, message)
    if reason in _NOT_STARTED:
        return Cause("StartError", message)
    if reason == "CreateContainerConfigError":
        return Cause(_word(_MISSING, message) or reason, message)
    if reason == "ContainerCreating" and hint is not None and hint.reason in _CREATION:
        return Cause(_word(_MISSING, hint.message) or _CREATION[hint.reason], hint.message)
    return None


def _termination_cause(ended: Document, hint: Hint | None) -> Cause:
    reason, code, message = ended.get("reason", ""), ended.get("exitCode"), ended.get("message", "").strip()
    if reason == "OOMKilled":
        text = "the container needed more memory than its limit"
        return Cause("OOMKilled", f"{text}: {message}" if message else text, exit_code=code)
    if reason in _NOT_STARTED:
        return Cause("StartError", message, exit_code=code)
    if code in _KILLED and hint is not None and hint.probe in ("Liveness", "Startup"):
        return Cause(f"{hint.probe}ProbeFailed", hint.message, exit_code=code)
    if code == 0:
        return Cause("ContainerCompleted", message or "the server ended by itself", exit_code=code)
    word = _word(_TERMINATION, message) or "ContainerFailed"
    return Cause(word, message or f"the container ended with exit code {code} and no message", exit_code=code)


def _unready_cause(container: Document, pod: Document, hint: Hint | None, now: datetime) -> Cause | None:
    since = unready_since(pod)
    grace = READINESS_GRACE_SECONDS if container["name"] == names.WORKER_CONTAINER else ROUTER_GRACE_SECONDS
    if since is None or (now - since).total_seconds() < grace:
        return None
    told = hint.message if hint is not None and hint.probe == "Readiness" else ""
    return Cause("ReadinessProbeFailed", told or f"container {container['name']} runs but is not ready")


def unready_since(pod: Document) -> datetime | None:
    """Since when a pod's containers run without being ready."""
    moments = [
        condition["lastTransitionTime"]
        for condition in _conditions(pod)
        if condition["type"] == "Ready" and condition["status"] != "True" and condition.get("lastTransitionTime")
    ]
    for container in pod["status"].get("containerStatuses") or ():
        started = ((container.get("state") or {}).get("running") or {}).get("startedAt")
        if started and not container.get("ready"):
            moments.append(started)
    return max((datetime.fromisoformat(moment) for moment in moments), default=None)


def _conditions(obj: Document) -> Iterable[Document]:
    return (obj.get("status") or {}).get("conditions") or ()


def _word(table: Iterable[tuple[re.Pattern[str], str]], message: str) -> str | None:
    return next((word for pattern, word in table if pattern.search(message)), None)


def _shown(message: str) -> str:
    """The end of a long message: logs tell what went wrong last."""
    text = message.strip()
    return text if len(text) <= LONGEST_MESSAGE else f"…{text[1 - LONGEST_MESSAGE :]}"


_CREATION = {
    "FailedMount": "VolumeMountFailed",
    "FailedAttachVolume": "VolumeMountFailed",
    "FailedMapVolume": "VolumeMountFailed",
    "FailedCreatePodSandBox": "SandboxFailed",
}
