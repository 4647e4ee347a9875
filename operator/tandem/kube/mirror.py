"""The part of the cache that one of our own watches fills: a kind, in one namespace or in all."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from typing import Any

from tandem.kube.cache import Cache, Entry, OnChange, entry_of
from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.follow import Event, Follower, KindSource, Listener
from tandem.kube.queue import Backoff
from tandem.kube.resources import Resource, selector_for

# A page is in memory as a whole, parsed, and anybody may put our label on objects of six megabytes of JSON.
PAGE = 25
# A kind that is not there, as an optional one may not be, is asked for again after the longest of these.
BACKOFF = Backoff(base=0.5, longest=30.0)
WATCH_SECONDS = 300


class Mirror:
    """Where the objects come from, and what is done with them. `on_change` hears of every change of the cache."""

    def __init__(
        self, client: Client, cache: Cache, resource: Resource, namespace: str | None, on_change: OnChange
    ) -> None:
        self._client = client
        self._cache = cache
        self._resource = resource
        self._namespace = namespace
        self._on_change = on_change
        self._objects = KindSource(client, resource, namespace, selector=selector_for(resource), metadata_only=False)

    def __str__(self) -> str:
        return f"{self._resource} in {self._namespace or 'all namespaces'}"

    async def follow(self, listener: Listener[Entry], clock: Clock) -> None:
        """Tells `listener` of everything until cancelled, or until it raises."""
        await Follower(
            self, listener, sleep=clock.sleep, draw=random.random, backoff=BACKOFF, watch_seconds=WATCH_SECONDS
        ).run()

    async def list(self) -> Listing[Entry]:
        """All objects, as entries."""
        return await self._client.list_kept(
            self._resource,
            self._namespace,
            keep=lambda obj: entry_of(self._resource, obj),
            label_selector=selector_for(self._resource),
            limit=PAGE,
        )

    def watch(self, *, version: str, seconds: int) -> AsyncGenerator[Event, None]:
        """What happened after `version`, for about `seconds`."""
        return self._objects.watch(version=version, seconds=seconds)

    def listed(self, listing: Listing[Entry]) -> None:
        """Takes in what there is, and forgets what there is no more."""
        for entry in listing.items:
            self._cache.take(entry, gone=False, tell=self._on_change)
        self._forget_all_but({entry.uid for entry in listing.items}, int(listing.resource_version))

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        """Takes in one event of the watch."""
        self._cache.take(entry_of(self._resource, obj), gone=kind == "DELETED", tell=self._on_change)

    def forget(self) -> None:
        """Forgets everything: the kind is not served any more."""
        self._forget_all_but(frozenset(), None)

    def _forget_all_but(self, uids: set[str] | frozenset[str], version: int | None) -> None:
        """Forgets what is not among `uids` and is not newer than `version`."""
        for entry in self._cache.of_kind(self._resource.kind, self._namespace):
            if entry.uid not in uids and self._cache.remove(entry.ref, uid=entry.uid, version=version) is not None:
                self._on_change(entry, None)
