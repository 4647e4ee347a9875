"""Pods of vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tandem.manifests.backends.base import BackendPods, Part, port, size
from tandem.rendering.values import RoleRendering

SIDE_CHANNEL_PORT = "5600"
MEETING_PORT = 29501


def _env(mode: str) -> Mapping[str, str]:
    # torch's compiler asks for the user's name, which a numeric user of no passwd entry has only by this variable.
    env = {"USER": "tandem", "VLLM_NO_USAGE_STATS": "1"}
    if mode == "disagg":
        # Bound and told to the peer: it must be this pod's address (vLLM's default is localhost).
        env |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": "$(POD_IP)", "VLLM_NIXL_SIDE_CHANNEL_PORT": SIDE_CHANNEL_PORT}
    return env


def _gpus(role: RoleRendering) -> int:
    names = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return math.prod(size(role, name) for name in names)


def _ports(role: RoleRendering, mode: str) -> Mapping[str, range]:
    if mode != "disagg":
        return {}
    first = port(role, "disaggregation_bootstrap_port", int(SIDE_CHANNEL_PORT))
    return {"the side channel": range(first, first + size(role, "data_parallel_size"))}  # one for each copy


def _across_nodes(part: Part) -> tuple[str, ...]:
    ranks = ("--nnodes", part.nodes, "--node-rank", part.rank)
    address = ("--master-addr", part.address, "--master-port", str(part.port))
    return (*ranks, *address) if part.leads else (*ranks, *address, "--headless")


def _not_across(role: RoleRendering) -> str:
    return "vLLM's data parallel copies stay on one node here" if size(role, "data_parallel_size") > 1 else ""


PODS = BackendPods(
    env=_env,
    gpus=_gpus,
    shared_memory=True,
    liveness_path="/health",
    ports=_ports,
    across_nodes=_across_nodes,
    meeting_port=MEETING_PORT,
    not_across=_not_across,
)
