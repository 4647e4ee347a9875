"""Pods of SGLang."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.manifests.backends.base import BackendPods, Part, port, size
from tandem.rendering.values import RoleRendering

BOOTSTRAP_PORT = 8998
MEETING_PORT = 20102


def _env(_mode: str) -> Mapping[str, str]:
    # torch's compiler asks for the user's name, which a numeric user of no passwd entry has only by this variable.
    # A probe that generates a token would fail on a worker that only does half of the work.
    return {"USER": "tandem", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}


def _gpus(role: RoleRendering) -> int:
    shared = size(role, "tensor_parallel_size") * size(role, "pipeline_parallel_size")
    values = {item.name: item.value for item in role.parameters}
    # Data parallel attention divides the GPUs of tensorParallelSize; otherwise each copy has its own.
    return shared if values.get("enable_attention_dp") is True else shared * size(role, "data_parallel_size")


def _ports(role: RoleRendering, mode: str) -> Mapping[str, range]:
    if mode != "disagg" or role.role != "prefill":
        return {}
    first = port(role, "disaggregation_bootstrap_port", BOOTSTRAP_PORT)
    return {"the bootstrap server": range(first, first + 1)}


def _across_nodes(part: Part) -> tuple[str, ...]:
    return ("--nnodes", part.nodes, "--node-rank", part.rank, "--dist-init-addr", f"{part.address}:{part.port}")


PODS = BackendPods(
    env=_env,
    gpus=_gpus,
    shared_memory=True,
    liveness_path="/ping",
    ports=_ports,
    across_nodes=_across_nodes,
    meeting_port=MEETING_PORT,
    not_across=lambda _role: "",
)
