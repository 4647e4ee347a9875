"""LeaderWorkerSets without their controller: its part is played here, through the API, as far as the operator sees it.

Each worker is a leader and further pods, bound to the told node; the status counts workers. A changed template replaces
all workers at once: how the real one rolls is its own affair.
"""

from __future__ import annotations

import hashlib
import json
import threading

from tandem.kube.resources import LEADER_WORKER_SET
from tests.integration.controller.api import Api, Object, Refusal
from tests.integration.controller.node import NAME as NODE
from tests.integration.controller.node import serving

SET, GROUP, INDEX = (f"leaderworkerset.sigs.k8s.io/{label}" for label in ("name", "group-key", "worker-index"))
TEMPLATE = "tests.tandem.dev/template"


def with_address(pod: Object) -> Object:
    """Behaviour of a pod that serves, and can be reached."""
    digest = hashlib.sha256(pod["metadata"]["uid"].encode()).digest()
    address = f"10.{digest[0]}.{digest[1]}.{digest[2] % 254 + 1}"
    return {**serving(pod), "podIP": address, "podIPs": [{"ip": address}]}


class PlayedSets:
    """The controller of LeaderWorkerSets in one namespace, as long as the context lasts."""

    def __init__(self, api: Api, namespace: str, *, period: float = 0.05) -> None:
        self._api = api
        self._namespace = namespace
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="played sets", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> PlayedSets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failure is None, f"the controller has failed: {self.failure!r}"

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                for found in self._api.list(LEADER_WORKER_SET, self._namespace):
                    self._follow(found)
            except (OSError, Refusal):
                continue  # what is not there yet, or not any more, is seen to in the next round
            except BaseException as failure:
                self.failure = failure
                return

    def _follow(self, found: Object) -> None:
        metadata, spec = found["metadata"], found["spec"]
        template = hashlib.sha256(json.dumps(spec["leaderWorkerTemplate"], sort_keys=True).encode()).hexdigest()[:10]
        wanted = {
            f"{metadata['name']}-{worker}" + (f"-{index}" if index else ""): (worker, index)
            for worker in range(spec["replicas"])
            for index in range(spec["leaderWorkerTemplate"]["size"])
        }
        pods = {
            pod["metadata"]["name"]: pod
            for pod in self._api.list("Pod", self._namespace, f"{SET}={metadata['name']}")
            if "deletionTimestamp" not in pod["metadata"]
        }
        for name in pods.keys() - {name for name in wanted if _made_from(pods.get(name), template)}:
            self._api.delete("Pod", self._namespace, name)
        for name in wanted.keys() - pods.keys():
            self._api.create(_pod(found, name, *wanted[name], template))
        self._tell(found, [pod for name, pod in pods.items() if name in wanted], template)

    def _tell(self, found: Object, pods: list[Object], template: str) -> None:
        size = found["spec"]["leaderWorkerTemplate"]["size"]
        workers: dict[str, list[Object]] = {}
        for pod in pods:
            workers.setdefault(pod["metadata"]["labels"][GROUP], []).append(pod)
        whole = [made for made in workers.values() if len(made) == size]
        counts = {
            "observedGeneration": found["metadata"]["generation"],
            "replicas": len(workers),
            "readyReplicas": sum(all(map(_is_ready, made)) for made in whole),
            "updatedReplicas": sum(all(_made_from(pod, template) for pod in made) for made in whole),
        }
        if counts != {key: (found.get("status") or {}).get(key) for key in counts}:
            self._api.merge(
                LEADER_WORKER_SET.kind, self._namespace, found["metadata"]["name"], {"status": counts}, "status"
            )


def _pod(found: Object, name: str, worker: int, index: int, template: str) -> Object:
    made = found["spec"]["leaderWorkerTemplate"]["workerTemplate" if index else "leaderTemplate"]
    labels = {
        **made["metadata"]["labels"],
        SET: found["metadata"]["name"],
        GROUP: f"{found['metadata']['name']}-{worker}",
        INDEX: str(index),
        TEMPLATE: template,
    }
    owner = {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "name": found["metadata"]["name"],
        "uid": found["metadata"]["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": found["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {**made["spec"], "nodeName": NODE},
    }


def _made_from(pod: Object | None, template: str) -> bool:
    return pod is not None and pod["metadata"]["labels"][TEMPLATE] == template


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
