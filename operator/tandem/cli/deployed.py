"""The images that the operator of a cluster uses, as far as a deployment there shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tandem.api.deployment import ModelDeployment
from tandem.manifests import Cluster, names
from tandem.manifests.overlay import server_image
from tandem.manifests.workers import pod_containers

Document = Mapping[str, Any]


def with_images_of(
    facts: Cluster, wanted: ModelDeployment, found: Document | None, workloads: Sequence[Document]
) -> Cluster:
    """`facts` with the images of a deployed deployment: `found` with what makes its pods, `workloads`.

    They tell the operator's defaults where `found` names no image itself. A worker image that is the shipped default of
    its version tells that the operator has no default of its own.
    """
    router = next((image for each in workloads if (image := _image(each, names.ROUTER_CONTAINER))), None)
    facts = replace(facts, router_image=router or facts.router_image)
    worker = _worker_image(found or {}, workloads)
    spec = _part(found, "spec")
    if worker is None or spec.get("backend", "torch") != wanted.spec.backend:
        return facts
    versions = facts.library.tables.get(wanted.spec.backend, {})
    if any(worker == table.image for table in versions.values()):
        return facts
    return replace(facts, images={**facts.images, wanted.spec.backend: worker})


def _worker_image(found: Document, workloads: Sequence[Document]) -> str | None:
    """The image of the newest workers that have the default one."""
    spec = _part(found, "spec")
    if spec.get("image"):
        return None
    revision = _part(found, "status").get("revision")
    newest_first = sorted(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp")), reverse=True)
    asked = [each for each in newest_first if revision and _labels(each).get(names.LABEL_REVISION) == revision]
    for workload in asked or newest_first:
        role = _part(_part(spec, "roles"), _labels(workload).get(names.LABEL_ROLE, ""))
        image = _image(workload, names.WORKER_CONTAINER)
        if image is not None and server_image(role.get("podTemplate")) is None:
            return image
    return None


def _image(workload: Document, container: str) -> str | None:
    return next((each.get("image") for each in pod_containers(workload) if each.get("name") == container), None)


def _labels(document: Document) -> Document:
    return document["metadata"].get("labels") or {}


def _part(document: Document | None, key: str) -> Document:
    value = (document or {}).get(key)
    return value if isinstance(value, Mapping) else {}
