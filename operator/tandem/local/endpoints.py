"""The list of workers that a local router follows, in place of a cluster's EndpointSlices."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tandem.local.spec import LOOPBACK, PodSpec


def endpoints_document(workers: Collection[PodSpec], *, ready: Collection[str]) -> dict[str, Any]:
    """The file's content; `ready` holds the names of the pods that serve."""
    return {
        "endpoints": [
            {
                "name": pod.name,
                "address": LOOPBACK,
                "port": pod.port,
                "role": pod.role,
                "revision": pod.revision,
                "ready": pod.name in ready,
            }
            for pod in workers
            if pod.port is not None
        ]
    }


class EndpointsFile:
    """Writes the list when it changes; a reader sees the old one or the new one, never a part."""

    def __init__(self, path: Path, workers: Collection[PodSpec]) -> None:
        self._path = path
        self._workers = workers
        self._written: dict[str, Any] | None = None

    def write(self, *, ready: Collection[str]) -> None:
        """Makes the file say that exactly these pods serve."""
        document = endpoints_document(self._workers, ready=ready)
        if document == self._written:
            return
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(document, indent=1), encoding="utf-8")
        scratch.replace(self._path)
        self._written = document
