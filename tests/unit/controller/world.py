"""A deployment as `build()` makes it, and the cluster's answer to it: entries as the watches would bring them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from tandem.api.deployment import ModelDeployment
from tandem.controller.desired import Rendered, compact
from tandem.controller.ledger import Ledger
from tandem.controller.observed import Observed, observe
from tandem.kube.cache import Cache, Entry, Ref, entry_of
from tandem.kube.resources import BY_KIND, LEADER_WORKER_SET, POD, WORKLOAD_KINDS
from tandem.manifests import Cluster, build, names
from tandem.rendering.library import load_library

UID = "md-uid"
NAMESPACE = "ns"
AGG = {"mode": "agg", "roles": {"agg": {"replicas": 2}}}
DISAGG = {"mode": "disagg", "roles": {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}}
SPANNING = {"backend": "vllm", "parameters": {"tensorParallelSize": 16}}
"""Each worker takes two nodes."""


def model_deployment(name: str = "chat", *, uid: str = UID, **spec: Any) -> ModelDeployment:
    """A parsed ModelDeployment of a PVC's model."""
    document = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": 1},
        "spec": {"model": {"pvc": {"claimName": "models", "path": "qwen"}}, **spec},
    }
    return ModelDeployment.model_validate(document, by_alias=True, strict=False)


class World:
    """A namespace with the objects of one ModelDeployment, kept in a cache."""

    def __init__(self, **spec: Any) -> None:
        self.cluster = Cluster(library=load_library(), apis=frozenset({LEADER_WORKER_SET.api}))
        self.cache = Cache()
        self._versions = itertools.count(100)
        self._uids = itertools.count(1)
        self.wish(**spec)

    def wish(self, **spec: Any) -> Rendered:
        """Changes what is wanted."""
        self.deployment = model_deployment(**spec)
        self.built = build(self.deployment, cluster=self.cluster)
        self.rendered = compact(self.built)
        return self.rendered

    @property
    def declared(self) -> dict[str, int]:
        return {role: self.deployment.replicas(role) for role in self.deployment.role_names()}

    def observed(self, uid: str = UID) -> Observed:
        return observe(self.cache.children(NAMESPACE, "chat"), uid)

    def put(self, obj: dict[str, Any], **changes: Any) -> Entry:
        """The cluster has this object now, in a new version."""
        stored = copy.deepcopy(obj)
        ref = Ref(stored["kind"], NAMESPACE, stored["metadata"]["name"])
        known = self.cache.get(ref)
        stored["metadata"]["uid"] = known.uid if known else f"uid-{next(self._uids)}"
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        stored["metadata"] |= changes.pop("metadata", {})
        stored |= changes
        entry = entry_of(BY_KIND[ref.kind], stored)
        self.cache.put(entry)
        return entry

    def apply_all(self) -> Ledger:
        """Everything that is wanted is there as wanted; what was written is remembered."""
        for obj in self.built.objects:
            self.put(obj)
        digests = {(desired.ref.kind, desired.ref.name): desired.digest for desired in self.rendered.objects}
        return Ledger(UID, digests)

    def deployments(self) -> list[dict[str, Any]]:
        """The workloads as they are."""
        return [entry.object for kind in sorted(WORKLOAD_KINDS) for entry in self.cache.of_kind(kind)]

    def workers(self, role: str, revision: str | None = None) -> dict[str, Any]:
        """A role's workload of a revision (default: the wanted one)."""
        labels = names.revision_selector("chat", role, revision or self.rendered.revision)
        (found,) = (each for each in self.deployments() if labels.items() <= each["metadata"]["labels"].items())
        return found

    def set_status(self, document: dict[str, Any], **status: Any) -> None:
        """Its controller has something to say."""
        self.put({**document, "status": status})

    def settle(self, document: dict[str, Any], ready: int | None = None, replicas: int | None = None) -> None:
        """A workload whose workers are all there; `ready` of them are ready (default: all)."""
        wanted = document["spec"]["replicas"] if replicas is None else replicas
        self.put(
            {**document, "spec": {**document["spec"], "replicas": wanted}},
            status={
                "observedGeneration": document["metadata"].get("generation", 0),
                "replicas": wanted,
                "updatedReplicas": wanted,
                "readyReplicas": wanted if ready is None else ready,
            },
        )

    def settle_all_of(self, part: str) -> None:
        """The workloads with `part` in their names are complete."""
        for document in self.deployments():
            if f"-{part}" in document["metadata"]["name"]:
                self.settle(document)

    def settle_all(self) -> None:
        """All workloads are complete."""
        for document in self.deployments():
            self.settle(document)

    def put_pod(
        self, sample: dict[str, Any], *, role: str = "", revision: str = "", name: str = "p", group: str = ""
    ) -> None:
        """A pod of a role (the router's without one), a part of the worker `group` where that is several pods."""
        labels = {names.LABEL_DEPLOYMENT: "chat"}
        if role:
            labels |= {names.LABEL_ROLE: role, names.LABEL_REVISION: revision or self.rendered.revision}
        if group:
            labels[names.LABEL_GROUP] = group
        pod = {**sample, "kind": POD.kind, "metadata": {**sample["metadata"], "name": name, "labels": labels}}
        pod["metadata"]["namespace"] = NAMESPACE
        self.put(pod)
