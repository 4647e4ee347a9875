"""How long workers may take to start, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tandem.manifests import names, timing
from tandem.manifests.backends import BACKENDS
from tandem.manifests.model import Deadline, KubernetesObject
from tandem.manifests.workers import Workers, pod_containers
from tandem.rendering.values import ParameterValue, Source

if TYPE_CHECKING:
    from tandem.blueprint.model import Blueprint

_WORKLOADS = ("Deployment", "LeaderWorkerSet")


def deadlines(workers: Workers, objects: Sequence[KubernetesObject], blueprint: Blueprint | None) -> Iterator[Deadline]:
    """That of each role, as its pods have it; none where a podTemplate takes the startupProbe out."""
    source, detail = _origin(workers, blueprint)
    usual = timing.probe_seconds(
        timing.worker_probes(liveness_path="", window_seconds=workers.load_seconds)["startupProbe"]
    )
    for obj in objects:
        role = obj["metadata"]["labels"].get(names.LABEL_ROLE)
        if role is None or obj["kind"] not in _WORKLOADS:
            continue
        own = ParameterValue(role, timing.STARTUP_DEADLINE, usual, source, detail)
        for container in pod_containers(obj):
            if container["name"] == names.WORKER_CONTAINER and container.get("startupProbe"):
                seconds = timing.probe_seconds(container["startupProbe"])
                path = f"spec.roles.{role}.podTemplate"
                given = ParameterValue(role, timing.STARTUP_DEADLINE, seconds, "user", path)
                yield Deadline(own) if seconds == usual else Deadline(given, own)


def _origin(workers: Workers, blueprint: Blueprint | None) -> tuple[Source, str]:
    backend = workers.deployment.spec.backend
    if BACKENDS[backend].watches_loading:
        return "default", f"{backend}: ends by itself when its loading stalls"
    if blueprint is None or blueprint.weight_bytes is None:
        return "default", "the bytes to load are not known"
    return "blueprint", f"blueprint {blueprint.digest[:12]}"
