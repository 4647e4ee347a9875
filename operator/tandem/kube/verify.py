"""Proof that the cache is what the API server has: at the start, after a watch began anew, and every few minutes.

Watches may miss deletions while they are cut off, and may die silently; a plain list tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tandem.kube.cache import Cache, Entry, Ref
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.discovery import Scope
from tandem.kube.errors import ApiError
from tandem.kube.resources import WATCHED_KINDS, Resource, selector_for

logger = logging.getLogger(__name__)

CATCH_UP_SECONDS = 15.0
ATTEMPTS = 4
RELIST_DELAY = 1.0


class WatchStuck(Exception):
    """A watch does not deliver what a list shows; only a restart of the process helps."""


class Verifier:
    """Compares cache and API server. `on_gone` hears of entries that turned out to be gone."""

    def __init__(
        self, client: Client, cache: Cache, scope: Scope, clock: Clock, *, on_gone: Callable[[Entry], None]
    ) -> None:
        self._client = client
        self._cache = cache
        self._scope = scope
        self._clock = clock
        self._on_gone = on_gone
        self._relisted: set[Resource] = set()
        self._wake = asyncio.Event()
        self.verified_at: float | None = None

    def relisted(self, resource: Resource) -> None:
        """Asks for a comparison of this kind soon."""
        if self.verified_at is not None:
            self._relisted.add(resource)
            self._wake.set()

    async def verify_all(self) -> None:
        """Returns when every kind has been compared and the cache has caught up. Raises ApiError, WatchStuck."""
        for resource in WATCHED_KINDS:
            await self.verify(resource)
        self.verified_at = self._clock.monotonic()

    async def verify(self, resource: Resource) -> None:
        """The same for one kind."""
        delivered = _Delivered()
        self._cache.observers.append(delivered.observe)
        try:
            for _ in range(ATTEMPTS):
                behind = await self._compare(resource)
                if await delivered.all_of(behind, self._clock):
                    return
        finally:
            self._cache.observers.remove(delivered.observe)
        shown = ", ".join(str(ref) for ref in list(behind)[:3])
        raise WatchStuck(f"the watch of {resource} has not delivered {len(behind)} objects, among them {shown}")

    async def run(self, every: float) -> None:
        """Verifies everything each `every` seconds, and a kind soon after its watch began anew. Raises WatchStuck."""
        due = self._clock.monotonic() + every
        while True:
            await self._sleep_until(due)
            try:
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + every
                    await self.verify_all()
                    continue
                await self._clock.sleep(RELIST_DELAY)
                while self._relisted:
                    await self.verify(self._relisted.pop())
            except ApiError as error:
                logger.warning("the cache could not be verified, trying again later: %s", error)

    async def _sleep_until(self, due: float) -> None:
        self._wake.clear()
        if self._relisted:
            return
        timer = self._clock.call_later(max(0.0, due - self._clock.monotonic()), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _compare(self, resource: Resource) -> dict[Ref, int]:
        """Drops what is gone from the cache; returns what the cache lacks, with the version that it should have."""
        behind: dict[Ref, int] = {}
        for namespace in self._scope:
            listing = await self._client.list(
                resource, namespace, label_selector=selector_for(resource), metadata_only=True
            )
            newest = int(listing.resource_version)
            listed: set[tuple[Ref, str]] = set()
            for item in listing.items:
                metadata = item["metadata"]
                ref = Ref(resource.kind, metadata["namespace"], metadata["name"])
                listed.add((ref, metadata["uid"]))
                entry, version = self._cache.get(ref), int(metadata["resourceVersion"])
                if entry is None or entry.version < version:
                    behind[ref] = version
            for entry in self._cache.of_kind(resource.kind, namespace):
                gone = (entry.ref, entry.uid) not in listed and entry.version <= newest
                if gone and self._cache.remove(entry.ref, uid=entry.uid, version=newest) is not None:
                    self._on_gone(entry)
        return behind


class _Delivered:
    """What the watches brought since this began: the newest version of each object, its end included."""

    def __init__(self) -> None:
        self._newest: dict[Ref, int] = {}
        self._lacking: dict[Ref, int] = {}
        self._complete = asyncio.Event()

    def observe(self, ref: Ref, _uid: str, version: int) -> None:
        """An observer of the cache."""
        self._newest[ref] = max(version, self._newest.get(ref, 0))
        if ref in self._lacking and version >= self._lacking[ref]:
            del self._lacking[ref]
            if not self._lacking:
                self._complete.set()

    async def all_of(self, wanted: dict[Ref, int], clock: Clock) -> bool:
        """Whether everything `wanted` (or later versions) comes in time."""
        self._lacking = {ref: version for ref, version in wanted.items() if self._newest.get(ref, 0) < version}
        if not self._lacking:
            return True
        self._complete.clear()
        timer = clock.call_later(CATCH_UP_SECONDS, self._complete.set)
        try:
            await self._complete.wait()
        finally:
            timer.cancel()
        return not self._lacking
