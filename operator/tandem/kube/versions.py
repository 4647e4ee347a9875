"""Follows the names and versions of objects that carry no label of ours, of one kind in one namespace.

Only metadata is asked for: what is in objects that nobody named stays with the API server.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from tandem.kube.client import Client, Listing
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.follow import Follower, KindSource
from tandem.kube.queue import Backoff
from tandem.kube.resources import Resource

logger = logging.getLogger(__name__)

BACKOFF = Backoff(base=0.2, longest=10.0)
WATCH_SECONDS = 300

OnVersion = Callable[[str, int], None]
"""Told of a name and the version at which its object came, changed or went."""


async def follow_versions(
    client: Client,
    clock: Clock,
    resource: Resource,
    namespace: str,
    *,
    known: Callable[[], set[str]],
    on_version: OnVersion,
) -> None:
    """Follows until cancelled. `known` gives the names that somebody cares for: after a list, `on_version` hears of
    each of them, there or not."""
    await Follower(
        KindSource(client, resource, namespace, metadata_only=True),
        _Versions(f"{resource} of namespace {namespace}", known, on_version),
        sleep=clock.sleep,
        draw=random.random,
        backoff=BACKOFF,
        watch_seconds=WATCH_SECONDS,
    ).run()


class _Versions:
    """Turns objects into names and versions."""

    def __init__(self, what: str, known: Callable[[], set[str]], on_version: OnVersion) -> None:
        self._what = what
        self._known = known
        self._on_version = on_version

    def listed(self, listing: Listing[dict[str, Any]]) -> None:
        found = {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in listing.items}
        for name in self._known():
            self._on_version(name, found.get(name, int(listing.resource_version)))

    def changed(self, _kind: str, obj: dict[str, Any]) -> None:
        self._on_version(obj["metadata"]["name"], int(obj["metadata"]["resourceVersion"]))

    def followed(self) -> None:
        """Nothing to tell."""

    async def failed(self, error: ApiError, failures: int) -> None:
        if failures in (3, 30):
            logger.warning("%s cannot be followed: %s", self._what, error)
