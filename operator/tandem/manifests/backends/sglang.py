"""Pods of SGLang."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.manifests.backends.base import BackendPods, size
from tandem.rendering.values import RoleRendering


def _env(_mode: str) -> Mapping[str, str]:
    # torch's compiler asks for the user's name, which a numeric user of no passwd entry has only by this variable.
    # A probe that generates a token would fail on a worker that only does half of the work.
    return {"USER": "tandem", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}


def _gpus(role: RoleRendering) -> int:
    shared = size(role, "tensor_parallel_size") * size(role, "pipeline_parallel_size")
    values = {item.name: item.value for item in role.parameters}
    # Data parallel attention divides the GPUs of tensorParallelSize; otherwise each copy has its own.
    return shared if values.get("enable_attention_dp") is True else shared * size(role, "data_parallel_size")


PODS = BackendPods(env=_env, gpus=_gpus, shared_memory=True, liveness_path="/ping")
