"""The labels of nodes with GPUs: read now and then, where the operator may read nodes at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.resources import NODE
from tandem.manifests.fitting import GPU_MEMORY_LABEL, GPU_PRODUCT_LABEL

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0


class GpuNodes:
    """Labels by node. `cluster_wide` is False where the operator serves some namespaces only, and has no such right."""

    def __init__(self, client: Client, clock: Clock, *, cluster_wide: bool) -> None:
        self._client = client
        self._clock = clock
        self._cluster_wide = cluster_wide
        self._labels: tuple[Mapping[str, str], ...] = ()
        self._due = 0.0

    async def labels(self) -> Sequence[Mapping[str, str]]:
        """Of every node that tells of its GPUs; none where nodes cannot be read."""
        now = self._clock.monotonic()
        if self._cluster_wide and now >= self._due:
            self._due = now + KEPT_SECONDS
            try:
                listing = await self._client.list(NODE, metadata_only=True)
            except ApiError as error:
                logger.warning("the GPUs of nodes are not known: %s", error)
            else:
                found = (item["metadata"].get("labels") or {} for item in listing.items)
                self._labels = tuple(
                    labels for labels in found if GPU_MEMORY_LABEL in labels or GPU_PRODUCT_LABEL in labels
                )
        return self._labels
