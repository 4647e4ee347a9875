"""A kind that a cluster may serve or not: now, later, or no more."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tandem.kube.cache import Cache, OnChange, entry_of
from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.discovery import Scope
from tandem.kube.errors import ApiError
from tandem.kube.follow import Follower, KindSource
from tandem.kube.queue import Backoff
from tandem.kube.resources import Resource, selector_for

logger = logging.getLogger(__name__)

# A kind that is not there is asked for again after the longest of these.
BACKOFF = Backoff(base=0.5, longest=30.0)
WATCH_SECONDS = 300
_NOT_FOUND, _FORBIDDEN = 404, 403
_PATIENCE = 3


class OptionalKind:
    """Keeps the cache equal to the API server as far as `resource` goes, for as long as the context lasts.

    It begins when it is known whether the cluster serves the kind and lets us read it. `on_served` hears of that, and
    of every change of it.
    """

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
        self._client = client
        self._clock = clock
        self._resource = resource
        self._on_served = on_served
        self._parts = [_Part(cache, resource, namespace, on_change, self._look) for namespace in scope]
        self._served: bool | None = None
        self._known = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> OptionalKind:
        self._tasks = [
            asyncio.create_task(self._follow(part), name=f"{self._resource} of {part.namespace or 'all namespaces'}")
            for part in self._parts
        ]
        try:
            await self._known.wait()
        except asyncio.CancelledError:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, part: _Part) -> None:
        source = KindSource(
            self._client,
            self._resource,
            part.namespace,
            selector=selector_for(self._resource),
            metadata_only=False,
        )
        await Follower(
            source,
            part,
            sleep=self._clock.sleep,
            draw=random.random,
            backoff=BACKOFF,
            watch_seconds=WATCH_SECONDS,
        ).run()

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

    def __init__(
        self, cache: Cache, resource: Resource, namespace: str | None, on_change: OnChange, look: Callable[[], None]
    ) -> None:
        self.namespace = namespace
        self.served: bool | None = None
        self._cache = cache
        self._resource = resource
        self._on_change = on_change
        self._look = look
        self._may_watch = True

    def listed(self, listing: Listing) -> None:
        entries = [entry_of(self._resource, item) for item in listing.items]
        for entry in entries:
            self._cache.take(entry, gone=False, tell=self._on_change)
        self._drop_all_but({entry.uid for entry in entries}, int(listing.resource_version))
        if self._may_watch:
            self._set(True)

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        self._cache.take(entry_of(self._resource, obj), gone=kind == "DELETED", tell=self._on_change)

    def followed(self) -> None:
        self._may_watch = True
        self._set(True)

    async def failed(self, error: ApiError, failures: int) -> None:
        if error.status == _FORBIDDEN and failures == 1:
            logger.warning("%s cannot be used: %s", self._resource, error)
        elif error.status != _NOT_FOUND and failures in (3, 30):
            logger.warning("%s cannot be followed: %s", self._resource, error)
        if error.status not in (_NOT_FOUND, _FORBIDDEN):
            if self.served is None and failures >= _PATIENCE:
                # Nobody has to wait for what may not be needed at all.
                self._set(False)
            return
        # Where only watching is forbidden, a list that works says nothing yet.
        self._may_watch = error.status == _NOT_FOUND
        self._drop_all_but(set(), None)
        self._set(False)

    def _drop_all_but(self, uids: set[str], version: int | None) -> None:
        """Forgets what is not among `uids` and is not newer than `version`."""
        for entry in self._cache.of_kind(self._resource.kind, self.namespace):
            if entry.uid not in uids and self._cache.remove(entry.ref, uid=entry.uid, version=version) is not None:
                self._on_change(entry, None)

    def _set(self, served: bool) -> None:
        self.served = served
        self._look()
