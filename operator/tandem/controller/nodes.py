"""The labels of nodes with GPUs: followed from the first time that somebody asks, where the operator may read nodes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.follow import Follower, KindSource
from tandem.kube.queue import Backoff
from tandem.kube.resources import NODE
from tandem.manifests.fitting import GPU_MEMORY_LABEL, GPU_PRODUCT_LABEL

logger = logging.getLogger(__name__)

BACKOFF = Backoff(base=1.0, longest=60.0)
WATCH_SECONDS = 300


class GpuNodes:
    """Labels by node, for as long as the context lasts. `cluster_wide` is False where the operator serves some
    namespaces only, and has no right to read nodes. `changed` hears that they are other ones."""

    def __init__(self, client: Client, clock: Clock, *, cluster_wide: bool, changed: Callable[[], None]) -> None:
        self._client = client
        self._clock = clock
        self._cluster_wide = cluster_wide
        self._changed = changed
        self._labels: dict[str, Mapping[str, str]] = {}
        self._known = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> GpuNodes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def labels(self) -> Sequence[Mapping[str, str]]:
        """Of every node that tells of its GPUs; none where nodes cannot be read."""
        if not self._cluster_wide:
            return ()
        if self._following is None:
            follower = Follower(
                KindSource(self._client, NODE, None, metadata_only=True),
                self,
                sleep=self._clock.sleep,
                draw=random.random,
                backoff=BACKOFF,
                watch_seconds=WATCH_SECONDS,
            )
            self._following = asyncio.create_task(follower.run(), name="nodes")
        await self._known.wait()
        return tuple(self._labels.values())

    def listed(self, listing: Listing[dict[str, Any]]) -> None:
        """All nodes there are."""
        names = {item["metadata"]["name"] for item in listing.items}
        different = [self._take(item, gone=False) for item in listing.items]
        lost = [self._labels.pop(name) for name in self._labels.keys() - names]
        self._tell(news=any(different) or bool(lost))

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        """One node came, changed or went."""
        self._tell(news=self._take(obj, gone=kind == "DELETED"))

    def followed(self) -> None:
        """Nothing to tell."""

    async def failed(self, error: ApiError, failures: int) -> None:
        """What is known stays; who waits goes on without."""
        if failures in (1, 30):
            logger.warning("the GPUs of nodes cannot be followed: %s", error)
        self._known.set()

    def _take(self, node: Mapping[str, Any], *, gone: bool) -> bool:
        """Whether that is news. The kubelet writes a node's status again and again, and its labels hardly ever."""
        name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
        before = self._labels.pop(name, None)
        if not gone and (GPU_MEMORY_LABEL in labels or GPU_PRODUCT_LABEL in labels):
            self._labels[name] = labels
        return self._labels.get(name) != before

    def _tell(self, *, news: bool) -> None:
        if news and self._known.is_set():
            self._changed()
        self._known.set()
