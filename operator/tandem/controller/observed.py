"""What is in the cluster for one deployment, read from the cache and sorted by role and revision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tandem.controller.hints import Hint, Subject, stuck_pods
from tandem.controller.rollout import Pool
from tandem.controller.rootcause import pod_cause, until_left_alone
from tandem.kube.cache import Entry, Ref
from tandem.kube.resources import LEADER_WORKER_SET, POD, WORKLOAD_KINDS
from tandem.manifests import names

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or LeaderWorkerSet of ours with its pods (oldest first); `role` is empty for the router."""

    entry: Entry
    document: Document
    pods: tuple[Document, ...]
    role: str
    revision: str

    @property
    def name(self) -> str:
        """The object's name."""
        return self.entry.ref.name

    @property
    def service(self) -> str:
        """Name of the headless Service of its workers."""
        return names.workers_name(self.entry.deployment, self.role, self.revision)

    @property
    def spans_nodes(self) -> bool:
        """Whether each worker is a group of pods."""
        return self.entry.ref.kind == LEADER_WORKER_SET.kind

    @property
    def unmade(self) -> str:
        """Name of a StatefulSet that has not made all pods of a LeaderWorkerSet; empty when there is none."""
        if not self.spans_nodes or not self.is_seen:
            return ""
        workers: dict[str, list[Document]] = {}
        for pod in self.pods:
            workers.setdefault(_worker_of(pod), []).append(pod)
        if len(workers) < self.replicas:
            return self.name
        size = self.document["spec"]["leaderWorkerTemplate"].get("size", 1)
        # A worker's pods are made by a set that has the name of its leader, the shortest of them.
        return next((min(_names(made), key=len) for made in workers.values() if len(made) < size), "")

    @property
    def replicas(self) -> int:
        """Workers that it should have."""
        return int(self.document["spec"].get("replicas", 1))

    @property
    def present(self) -> int:
        """Workers that it has, those excluded that are ending."""
        return self._count("replicas")

    @property
    def ready(self) -> int:
        """Workers that are ready, of whatever template."""
        return self._count("readyReplicas")

    @property
    def updated(self) -> int:
        """Workers made from the present template; 0 while the controller has not seen it yet."""
        return self._count("updatedReplicas") if self.is_seen else 0

    @property
    def is_seen(self) -> bool:
        """Whether its controller has acted on the present spec."""
        observed = (self.document.get("status") or {}).get("observedGeneration", 0)
        return bool(observed >= self.document["metadata"].get("generation", 0))

    @property
    def is_complete(self) -> bool:
        """Whether all workers are made from the present template and ready, and no others are left."""
        wanted = self.replicas
        return self.is_seen and self.updated == wanted and self.present == wanted and self.ready >= wanted

    def pool(self, hints: Mapping[str, Hint], now: datetime) -> Pool:
        """Its workers as the rollout planner counts them."""
        failing = {
            _worker_of(pod)
            for pod in self.pods
            if pod_cause(pod, hint=hints.get(pod["metadata"]["uid"]), now=now) is not None
        }
        return Pool(self.replicas, self.present, self.ready, min(len(failing), self.replicas))

    def _count(self, field: str) -> int:
        return int((self.document.get("status") or {}).get(field, 0))


@dataclass(frozen=True, slots=True)
class Observed:
    """The objects that belong to one ModelDeployment: those it controls, and those that only carry its labels."""

    owned: Mapping[Ref, Entry]
    others: Mapping[Ref, Entry]
    workers: tuple[Workload, ...]
    router: Workload | None

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All of them, workers before the router."""
        return (*self.workers, self.router) if self.router else self.workers

    @property
    def worker_pods(self) -> Iterable[Document]:
        """The pods of all workers."""
        return (pod for workload in self.workers for pod in workload.pods)

    @property
    def router_pods(self) -> Iterable[Document]:
        """The router's pods."""
        return self.router.pods if self.router else ()

    @property
    def stuck(self) -> Iterator[Subject]:
        """What leaves open why it does not go on."""
        for workload in self.workloads:
            yield from stuck_pods(workload.pods)
            if unmade := workload.unmade:
                selector = f"involvedObject.kind=StatefulSet,involvedObject.name={unmade}"
                yield Subject(workload.entry.uid, workload.entry.ref.namespace, f"StatefulSet {unmade}", selector)

    def until_left_alone(self, now: datetime) -> float | None:
        """Seconds until a workload that nothing has taken up counts as left alone; None when there is none."""
        waits = (until_left_alone(workload.document, now) for workload in self.workers)
        return min((wait for wait in waits if wait is not None and wait > 0), default=None)

    def workload(self, name: str) -> Workload | None:
        """The one of that name."""
        return next((workload for workload in self.workloads if workload.name == name), None)


def observe(children: Iterable[Entry], uid: str) -> Observed:
    """Sorts the children of the ModelDeployment with `uid`."""
    owned: dict[Ref, Entry] = {}
    others: dict[Ref, Entry] = {}
    pods: dict[tuple[str, str], list[Document]] = {}
    for entry in children:
        if entry.ref.kind == POD.kind:
            pod = entry.object
            labels = pod["metadata"].get("labels") or {}
            place = (labels.get(names.LABEL_ROLE, ""), labels.get(names.LABEL_REVISION, ""))
            pods.setdefault(place, []).append(pod)
        elif entry.owner is not None and entry.owner.uid == uid:
            owned[entry.ref] = entry
        else:
            others[entry.ref] = entry
    found = [
        _workload(entry, pods) for entry in owned.values() if entry.ref.kind in WORKLOAD_KINDS and not entry.deleting
    ]
    found.sort(key=lambda workload: (workload.document["metadata"].get("creationTimestamp", ""), workload.name))
    return Observed(
        owned=owned,
        others=others,
        workers=tuple(workload for workload in found if workload.role),
        router=next((workload for workload in found if not workload.role), None),
    )


def _workload(entry: Entry, pods: Mapping[tuple[str, str], list[Document]]) -> Workload:
    document = entry.object
    labels = document["metadata"].get("labels") or {}
    place = (labels.get(names.LABEL_ROLE, ""), labels.get(names.LABEL_REVISION, ""))
    mine = sorted(
        pods.get(place, ()), key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"])
    )
    return Workload(entry, document, tuple(mine), role=place[0], revision=place[1])


def _worker_of(pod: Document) -> str:
    """The worker that a pod is, or is a part of."""
    metadata = pod["metadata"]
    return str((metadata.get("labels") or {}).get(names.LABEL_GROUP) or metadata["name"])


def _names(pods: Iterable[Document]) -> Iterator[str]:
    return (str(pod["metadata"]["name"]) for pod in pods)
