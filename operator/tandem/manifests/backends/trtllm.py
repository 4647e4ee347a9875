"""Pods of TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.manifests.backends.base import BackendPods, size
from tandem.rendering.values import RoleRendering


def _env(_mode: str) -> Mapping[str, str]:
    # torch's compiler asks for the user's name, which a numeric user of no passwd entry has only by this variable.
    return {"USER": "tandem", "DO_NOT_TRACK": "1"}


def _gpus(role: RoleRendering) -> int:
    return size(role, "tensor_parallel_size") * size(role, "pipeline_parallel_size")


PODS = BackendPods(
    env=_env,
    gpus=_gpus,
    shared_memory=True,
    liveness_path="/health",
    not_across=lambda _role: "TensorRT-LLM across nodes needs an MPI launcher, which Tandem does not run",
)
