"""Statuses of pods and Deployments as kubelet, scheduler and controllers of Kubernetes 1.34 write them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

CREATED = "2026-11-21T11:59:00Z"
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": CREATED}


def pod(
    name: str = "chat-agg-1a2b-7d9f-abcde",
    *,
    uid: str = "",
    created: str = CREATED,
    labels: dict[str, str] | None = None,
    phase: str = "Pending",
    conditions: list[Object] | None = None,
    **status: Any,
) -> Object:
    """A pod with this status."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or name,
            "creationTimestamp": created,
            "labels": labels or {},
        },
        "status": {"phase": phase, "conditions": [SCHEDULED] if conditions is None else conditions, **status},
    }


def container(*, name: str = "server", ready: bool = False, **status: Any) -> Object:
    """The status of one container."""
    return {"name": name, "ready": ready, "restartCount": 0, "image": "tandem-server:0.1.0", **status}


def waiting(reason: str, message: str = "", **status: Any) -> Object:
    """A pod whose server container waits."""
    state = {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}
    return pod(containerStatuses=[container(state=state, **status)])


def ended(exit_code: int, *, reason: str = "Error", message: str = "", **status: Any) -> Object:
    """A pod whose server container has ended and waits for its next start, as between two crashes."""
    last = {"exitCode": exit_code, "reason": reason, "finishedAt": CREATED}
    if message:
        last["message"] = message
    back_off = "back-off 20s restarting failed container=server pod=chat-agg-1a2b-7d9f-abcde_ns(5d1f)"
    return pod(
        phase="Running",
        containerStatuses=[
            container(
                state={"waiting": {"reason": "CrashLoopBackOff", "message": back_off}},
                lastState={"terminated": last},
                restartCount=3,
                started=False,
                **status,
            )
        ],
    )


def running(*, ready: bool, started: bool = True, since: str = CREATED, name: str = "server", **status: Any) -> Object:
    """A pod whose container runs."""
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
    if not ready:
        condition |= {"reason": "ContainersNotReady", "message": f"containers with unready status: [{name}]"}
    return pod(
        phase="Running",
        conditions=[SCHEDULED, condition],
        containerStatuses=[
            container(name=name, ready=ready, started=started, state={"running": {"startedAt": since}}, **status)
        ],
    )


def unscheduled(message: str) -> Object:
    """A pod that the scheduler found no place for."""
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


def refusing(message: str) -> Object:
    """A Deployment whose pods the API server refuses."""
    return {
        "kind": "Deployment",
        "metadata": {"name": "chat-agg-1a2b"},
        "status": {
            "conditions": [
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message},
            ]
        },
    }


def event(reason: str, message: str, *, seen: str = CREATED, kind: str = "Warning") -> Object:
    """A core/v1 Event about a pod."""
    return {"type": kind, "reason": reason, "message": message, "lastTimestamp": seen, "metadata": {"name": "e"}}
