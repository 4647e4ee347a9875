"""A node that is only told of: pods are scheduled to it, and their statuses are written as a kubelet would.

The one thing that a control plane alone does not have. What each pod does is up to the test.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tandem.api.labels import BLUEPRINT
from tests.integration.controller.api import Api, Object, Refusal

NAME = "told-node"
HEARTBEAT_SECONDS = 5.0
Behaviour = Callable[[Object], Object]
"""From a pod to its status; called again and again."""


def now() -> str:
    """The time as statuses have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def status(phase: str, *, ready: bool, since: str, containers: list[Object]) -> Object:
    """A pod's status."""
    value = "True" if ready else "False"
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
        {"type": "Initialized", "status": "True", "lastTransitionTime": since},
        {"type": "ContainersReady", "status": value, "lastTransitionTime": since},
        {"type": "Ready", "status": value, "lastTransitionTime": since},
    ]
    return {"phase": phase, "conditions": conditions, "containerStatuses": containers}


def container(pod: Object, **fields: Any) -> Object:
    """The status of a pod's only container."""
    spec = pod["spec"]["containers"][0]
    base = {"name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0, "ready": False}
    return {**base, **fields}


def serving(pod: Object) -> Object:
    """Every pod is ready at once."""
    since = pod["metadata"]["creationTimestamp"]
    running = container(pod, ready=True, started=True, state={"running": {"startedAt": since}})
    return status("Running", ready=True, since=since, containers=[running])


def unreadable(pod: Object) -> Object:
    """A pod that reads a model's files has found nothing."""
    ended = {"exitCode": 1, "reason": "Error", "message": json.dumps({"refused": "there are no files here"})}
    since = pod["metadata"]["creationTimestamp"]
    state = container(pod, state={"terminated": {**ended, "startedAt": since, "finishedAt": since}})
    return status("Failed", ready=False, since=since, containers=[state])


def loading(pod: Object) -> Object:
    """A pod that runs and has not passed its startup probe."""
    since = pod["metadata"]["creationTimestamp"]
    running = container(pod, started=False, state={"running": {"startedAt": since}})
    return status("Running", ready=False, since=since, containers=[running])


class ToldNode:
    """The node, as long as the context lasts. `behave` (`probe` for pods that read a model's files) may be replaced at
    any time. A pod that is to end does so after `linger` seconds."""

    def __init__(self, api: Api, behave: Behaviour = serving, *, period: float = 0.05, linger: float = 0.0) -> None:
        self._api = api
        self._period = period
        self._linger = linger
        self._ending: dict[str, float] = {}
        self.behave = behave
        self.probe: Behaviour = unreadable
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="told node", daemon=True)
        self._beaten = 0.0
        self.failure: BaseException | None = None

    def __enter__(self) -> ToldNode:
        metadata = {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}}
        self._api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        self._beat()
        # The controller manager takes it away too, seconds later.
        untainted = {"spec": {"taints": None}}
        self._api.request("PATCH", f"/api/v1/nodes/{NAME}", untainted, "application/merge-patch+json")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._api.request("DELETE", f"/api/v1/nodes/{NAME}")
        assert self.failure is None, f"the node has failed: {self.failure!r}"

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._round()
            except (OSError, Refusal):
                continue  # the API server may be away; a kubelet goes on too
            except BaseException as failure:
                self.failure = failure
                return

    def _round(self) -> None:
        if time.monotonic() - self._beaten > HEARTBEAT_SECONDS:
            self._beat()
        pods = self._api.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={NAME}")["items"] or []
        for pod in pods:
            metadata = pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            try:
                if "deletionTimestamp" in metadata:
                    if time.monotonic() < self._ending.setdefault(metadata["uid"], time.monotonic() + self._linger):
                        continue
                    self._api.request(
                        "DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
                    )
                    continue
                reads = BLUEPRINT in (metadata.get("annotations") or {})
                wanted = self.probe(pod) if reads else self.behave(pod)
                if any(pod["status"].get(key) != value for key, value in wanted.items()):
                    patch = {"metadata": {"uid": metadata["uid"]}, "status": wanted}
                    self._api.request("PATCH", f"{path}/status", patch, "application/merge-patch+json")
            except Refusal as refusal:
                if refusal.status not in (404, 409):
                    raise

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        amounts = {"cpu": "10000", "memory": "10000Gi", "pods": "10000", "ephemeral-storage": "10000Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()}
        ready["lastTransitionTime"] = ready["lastHeartbeatTime"]
        patch = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
        self._api.request("PATCH", f"/api/v1/nodes/{NAME}/status", patch, "application/merge-patch+json")
