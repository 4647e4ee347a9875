"""Facts of the cluster that the core needs and may not ask for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.rendering.library import Library

# The images of `make images`; the operator and the command line can name others.
ROUTER_IMAGE = "tandem-operator:0.1.0"
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where a deployment is built for.

    `library` holds the shipped templates and rules, read and compiled once by
    `tandem.rendering.library.load_library()` and kept by the caller. `images` has the default worker image per
    backend. `apis` are the optional APIs that the cluster serves, as `group/version/Kind`. `rules` and `templates`
    are file name → text of the ConfigMaps that the deployment names (`spec.rules.configMapRef`,
    `spec.templates.configMapRef`). `gpus_per_node` is how many GPUs a node has, and so a pod can have at most.
    `gpu_memory` are the bytes of one GPU of a role's workers, by role, where they are known beside the spec.
    """

    library: Library
    router_image: str = ROUTER_IMAGE
    images: Mapping[str, str] = field(default_factory=dict)
    apis: frozenset[str] = frozenset()
    cluster_domain: str = "cluster.local"
    gpus_per_node: int = GPUS_PER_NODE
    gpu_memory: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
