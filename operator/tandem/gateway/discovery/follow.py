"""Follows EndpointSlices: keeps the view of the workers equal to what the API server says.

While the API server cannot be reached the last known workers stay in force: it is they who serve, not the API server.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tandem.gateway.discovery.slices import SliceCache
from tandem.gateway.fleet import FleetView
from tandem.kube.client import Listing
from tandem.kube.errors import ApiError
from tandem.kube.follow import Follower, Source
from tandem.kube.queue import Backoff

BACKOFF = Backoff(base=0.1, longest=10.0, jitter=0.5)
WATCH_SECONDS = 60

log = logging.getLogger(__name__)


class SliceApi(Source[dict[str, Any]], Protocol):
    """What is asked of the API server: the slices of the deployment."""

    async def recover(self, error: ApiError) -> None:
        """Told of a failure, before the next try."""

    async def close(self) -> None:
        """Closes the connections."""


class SliceFollower:
    """Keeps a `FleetView` equal to what the API server says. `sleep` and `draw` (in [0, 1)) are injected."""

    def __init__(
        self,
        api: SliceApi,
        view: FleetView,
        *,
        on_failure: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]],
        draw: Callable[[], float],
    ) -> None:
        self._api = api
        self._view = view
        self._on_failure = on_failure
        self._cache = SliceCache()
        self._reported: frozenset[str] = frozenset()
        self._in_trouble = False
        self._follower = Follower(api, self, sleep=sleep, draw=draw, backoff=BACKOFF, watch_seconds=WATCH_SECONDS)

    async def run(self) -> None:
        """Follows until cancelled."""
        try:
            await self._follower.run()
        finally:
            await self._api.close()

    def listed(self, listing: Listing[dict[str, Any]]) -> None:
        """All slices there are."""
        self._cache.replace(listing.items)
        self._publish()

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        """One slice that came, changed or went."""
        if kind == "DELETED":
            self._cache.drop(obj)
        else:
            self._cache.put(obj)
        self._publish()

    def followed(self) -> None:
        """The view is current."""
        if self._in_trouble:
            log.info("the worker list is being followed again")
        self._in_trouble = False
        self._view.trouble = None

    async def failed(self, error: ApiError, failures: int) -> None:
        """The workers stay as they were last seen."""
        self._in_trouble = True
        self._view.trouble = str(error)
        self._on_failure()
        await self._api.recover(error)
        if failures == 1 or failures % 10 == 0:
            log.warning("the worker list cannot be followed (%d. failure in a row): %s", failures, error)

    def _publish(self) -> None:
        problems = self._cache.problems()
        for problem in sorted(problems - self._reported):
            log.warning("workers left out: %s", problem)
        self._reported = problems
        self._view.publish(self._cache.fleet())
