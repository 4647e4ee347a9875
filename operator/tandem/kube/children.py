"""The watches of what deployments are made of. Kopf watches the resources that users write, which are few.

A deployment has more than a dozen children, and each tells of a change in several events: Kopf's task, queue and copies
for every one of them took a quarter of the operator's time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from tandem.kube.cache import Cache, Entry, OnChange
from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.discovery import Scope
from tandem.kube.errors import ApiError
from tandem.kube.mirror import Mirror
from tandem.kube.resources import FOLLOWED_KINDS
from tandem.kube.verify import WatchStuck

logger = logging.getLogger(__name__)

_FORBIDDEN, _NOT_FOUND = 403, 404
# Rights may be missing for seconds while somebody edits them. After that the process starts anew, and says which.
_PATIENCE = 6


async def follow_children(client: Client, cache: Cache, scope: Scope, clock: Clock, on_change: OnChange) -> None:
    """Keeps the cache equal to the API server as far as the children go, until cancelled. Raises WatchStuck."""
    async with asyncio.TaskGroup() as group:
        for resource in FOLLOWED_KINDS:
            for namespace in scope:
                watched = _Watched(Mirror(client, cache, resource, namespace, on_change))
                group.create_task(watched.mirror.follow(watched, clock), name=str(watched.mirror))


class _Watched:
    """A kind that every cluster serves: to be refused it is a fault."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def listed(self, listing: Listing[Entry]) -> None:
        self.mirror.listed(listing)

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        self.mirror.changed(kind, obj)

    def followed(self) -> None:
        """A watch that works needs no word."""

    async def failed(self, error: ApiError, failures: int) -> None:
        if error.status in (_FORBIDDEN, _NOT_FOUND) and failures >= _PATIENCE:
            raise WatchStuck(f"{self.mirror} cannot be followed: {error}")
        if failures in (3, 30):
            logger.warning("%s cannot be followed, trying on: %s", self.mirror, error)
