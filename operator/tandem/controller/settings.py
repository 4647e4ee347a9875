"""Settings of the operator process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tandem.kube.lease import LeaseTimes
from tandem.manifests.cluster import GPUS_PER_NODE, ROUTER_IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElection:
    """The Lease that decides which replica acts. `identity` defaults to the host's name and a random part."""

    namespace: str
    name: str = "tandem-operator"
    identity: str = ""
    times: LeaseTimes = field(default_factory=LeaseTimes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Everything that can be set. Without `namespaces` the operator works in all of them; without `leader_election` it
    must be the only one. `images` are default worker images per backend. A worker that needs more than `gpus_per_node`
    takes several nodes. A `health_port` of 0 picks a free one, and None serves no health at all. Seconds:
    `resync_seconds` between looks at everything, whether it changed or not.
    """

    namespaces: tuple[str, ...] | None = None
    leader_election: LeaderElection | None = None
    router_image: str = ROUTER_IMAGE
    images: Mapping[str, str] = field(default_factory=dict)
    cluster_domain: str = "cluster.local"
    gpus_per_node: int = GPUS_PER_NODE
    resync_seconds: float = 600.0
    workers: int = 16
    health_host: str = "0.0.0.0"
    health_port: int | None = 8080
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    kubeconfig: Path | None = None

    def __post_init__(self) -> None:
        if self.namespaces is not None and not self.namespaces:
            raise ValueError("namespaces: give at least one, or None for all")
        if self.workers < 1:
            raise ValueError("workers: at least 1")
        if self.resync_seconds <= 0:
            raise ValueError("resync_seconds: above 0")
