"""Pods of the bundled server."""

from __future__ import annotations

from tandem.manifests.backends.base import BackendPods

PODS = BackendPods(
    env=lambda _mode: {}, gpus=lambda _role: 0, shared_memory=False, liveness_path="/livez", watches_loading=True
)
