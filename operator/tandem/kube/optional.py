"""A kind that a cluster may serve or not: now, later, or no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from tandem.kube.cache import Cache, Entry, OnChange
from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.discovery import Scope
from tandem.kube.errors import ApiError
from tandem.kube.mirror import Mirror
from tandem.kube.resources import Resource

logger = logging.getLogger(__name__)

_NOT_FOUND, _FORBIDDEN = 404, 403
_PATIENCE = 3


class OptionalKind:
    """Keeps the cache equal to the API server as far as `resource` goes. `on_served` hears whether the cluster serves
    the kind and lets us read it, and of every change of that."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        scope: Scope,
        clock: Clock,
        resource: Resource,
        *,
        on_change: OnChange,
        on_served: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._resource = resource
        self._on_served = on_served
        self._parts = [_Part(Mirror(client, cache, resource, namespace, on_change), self._look) for namespace in scope]
        self._served: bool | None = None
        self._known = asyncio.Event()

    async def run(self) -> None:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.mirror.follow(part, self._clock), name=str(part.mirror))

    async def known(self) -> None:
        """Returns when it is known whether the cluster serves the kind and lets us read it; `run` finds out."""
        await self._known.wait()

    def _look(self) -> None:
        """Called when a part has found something out: served is what every part can read."""
        if any(part.served is None for part in self._parts):
            return
        served = all(part.served for part in self._parts)
        if served is not self._served:
            self._served = served
            logger.info("%s: %s", self._resource, "served, and followed" if served else "not served, or not for us")
            self._on_served(served)
        self._known.set()


class _Part:
    """One namespace of the scope, or (None) all of them."""

    def __init__(self, mirror: Mirror, look: Callable[[], None]) -> None:
        self.mirror = mirror
        self.served: bool | None = None
        self._look = look
        self._may_watch = True

    def listed(self, listing: Listing[Entry]) -> None:
        self.mirror.listed(listing)
        if self._may_watch:
            self._set(True)

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        self.mirror.changed(kind, obj)

    def followed(self) -> None:
        self._may_watch = True
        self._set(True)

    async def failed(self, error: ApiError, failures: int) -> None:
        if error.status == _FORBIDDEN and failures == 1:
            logger.warning("%s cannot be used: %s", self.mirror, error)
        elif error.status != _NOT_FOUND and failures in (3, 30):
            logger.warning("%s cannot be followed: %s", self.mirror, error)
        if error.status not in (_NOT_FOUND, _FORBIDDEN):
            if self.served is None and failures >= _PATIENCE:
                # Nobody has to wait for what may not be needed at all.
                self._set(False)
            return
        # Where only watching is forbidden, a list that works says nothing yet.
        self._may_watch = error.status == _NOT_FOUND
        self.mirror.forget()
        self._set(False)

    def _set(self, served: bool) -> None:
        self.served = served
        self._look()
