"""Follows the names and versions of objects that carry no label of ours, of one kind in one namespace.

Only metadata is asked for: what is in objects that nobody named stays with the API server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.queue import Backoff
from tandem.kube.resources import Resource

logger = logging.getLogger(__name__)

BACKOFF = Backoff(base=0.2, longest=10.0)
# A watch is asked to end after this long, so that one that died in silence is noticed.
WATCH_SECONDS = 300

OnVersion = Callable[[str, int], None]
"""Told of a name and the version at which its object came, changed or went."""


class Follower:
    """One list, then watches that resume where the last one ended, until cancelled.

    `known` gives the names that somebody cares for: after a list, `on_version` hears of each of them, there or not.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        resource: Resource,
        namespace: str,
        *,
        known: Callable[[], set[str]],
        on_version: OnVersion,
    ) -> None:
        self._client = client
        self._clock = clock
        self._resource = resource
        self._namespace = namespace
        self._known = known
        self._on_version = on_version
        self._version = ""
        self._failures = 0

    async def run(self) -> None:
        """Follows until cancelled, through every failure."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                self._failures = 0
                # A server that ends every watch at once is not asked without pause.
                await self._clock.sleep(BACKOFF.base)
            except ApiError as error:
                await self._recover(error, anew=bool(error.status))
            except (ValueError, KeyError, TypeError) as error:
                await self._recover(error, anew=True)

    async def _list(self) -> None:
        listing = await self._client.list(self._resource, self._namespace, metadata_only=True)
        found = {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in listing.items}
        for name in self._known():
            self._on_version(name, found.get(name, int(listing.resource_version)))
        self._version = listing.resource_version

    async def _watch(self) -> None:
        events = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self._version,
            timeout_seconds=WATCH_SECONDS,
            metadata_only=True,
        )
        async for kind, obj in events:
            self._failures = 0
            self._take(kind, obj["metadata"])

    def _take(self, kind: str, metadata: Mapping[str, Any]) -> None:
        self._version = metadata["resourceVersion"]
        if kind != "BOOKMARK":
            self._on_version(metadata["name"], int(self._version))

    async def _recover(self, error: Exception, *, anew: bool) -> None:
        """Waits. A connection that broke is taken up where it was; else a fresh list is the safe way back."""
        if anew:
            self._version = ""
        self._failures += 1
        if self._failures in (3, 30):
            logger.warning("%s of namespace %s cannot be followed: %s", self._resource, self._namespace, error)
        await self._clock.sleep(BACKOFF.delay(self._failures, 0.0))
