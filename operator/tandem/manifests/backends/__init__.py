"""One file per backend: what its pods need beyond a command line."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.manifests.backends import sglang, torch, trtllm, vllm
from tandem.manifests.backends.base import BackendPods

BACKENDS: Mapping[str, BackendPods] = {
    "torch": torch.PODS,
    "vllm": vllm.PODS,
    "sglang": sglang.PODS,
    "trtllm": trtllm.PODS,
}
