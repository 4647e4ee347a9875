"""Pods of vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tandem.manifests.backends.base import BackendPods, size
from tandem.rendering.values import RoleRendering

SIDE_CHANNEL_PORT = "5600"


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


PODS = BackendPods(env=_env, gpus=_gpus, shared_memory=True, liveness_path="/health")
