"""Follows EndpointSlices: one list, then watches that resume where the last one ended, through every interruption.

While the API server cannot be reached the last known workers stay in force: it is they who serve, not the API server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from tandem.gateway.discovery.slices import SliceCache
from tandem.gateway.fleet import FleetView

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
# A watch is asked to end after this long (plus up to half of it), so that one that died in silence is noticed.
WATCH_SECONDS = 60

log = logging.getLogger(__name__)


class ApiFailed(Exception):
    """A request to the API server failed; `status` is 0 when there was no answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Listing:
    """Every slice, and the version from which to watch on."""

    items: list[dict[str, Any]]
    version: str


class SliceApi(Protocol):
    """What is asked of the API server. `list` and `watch` raise ApiFailed."""

    async def list(self) -> Listing:
        """All slices of the deployment."""

    def watch(self, *, version: str, seconds: int) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """The events (type and object) after `version`, for about `seconds`; ERROR events are raised."""

    async def recover(self, error: ApiFailed) -> None:
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
        self._sleep = sleep
        self._draw = draw
        self._cache = SliceCache()
        self._reported: frozenset[str] = frozenset()
        self._version: str | None = None
        self._failures = 0
        self._relisting = False

    async def run(self) -> None:
        """Follows until cancelled."""
        try:
            while True:
                try:
                    await self._list_and_watch()
                except ApiFailed as error:
                    await self._recover(error)
        finally:
            await self._api.close()

    async def _list_and_watch(self) -> None:
        """Lists if there is no version to resume from, then watches until the watch ends."""
        if self._version is None:
            listing = await self._api.list()
            self._cache.replace(listing.items)
            self._version = listing.version
            self._publish()
        seconds = WATCH_SECONDS + int(self._draw() * WATCH_SECONDS / 2)
        async with aclosing(self._api.watch(version=self._version, seconds=seconds)) as events:
            async for kind, item in events:
                self._take(kind, item)
        # Ended as agreed: even if no event came, the view is current.
        self._succeeded()
        await self._sleep(FIRST_PAUSE_SECONDS * self._draw())

    def _take(self, kind: str, item: dict[str, Any]) -> None:
        """One event; a bookmark brings only a newer version to resume from."""
        if kind in {"ADDED", "MODIFIED"}:
            self._cache.put(item)
        elif kind == "DELETED":
            self._cache.drop(item)
        self._version = item["metadata"]["resourceVersion"]
        self._publish()
        self._succeeded()

    def _publish(self) -> None:
        problems = self._cache.problems()
        for problem in sorted(problems - self._reported):
            log.warning("workers left out: %s", problem)
        self._reported = problems
        self._view.publish(self._cache.fleet())

    def _succeeded(self) -> None:
        """A watch works. A list alone does not count: where watching is forbidden, failures must add up."""
        if self._failures:
            log.info("the worker list is being followed again")
        self._failures = 0
        self._relisting = False
        self._view.trouble = None

    async def _recover(self, error: ApiFailed) -> None:
        """Decides where to go on from, and waits; 410 means that the version is too old, and is no failure."""
        if error.status == 410:
            self._version = None
            if not self._relisting:
                self._relisting = True
                return
        elif error.status:
            # The API server did answer: whatever it refuses, a fresh list is the safe way back.
            self._version = None
        self._failures += 1
        self._view.trouble = str(error)
        self._on_failure()
        await self._api.recover(error)
        if self._failures == 1 or self._failures % 10 == 0:
            log.warning("the worker list cannot be followed (%d. failure in a row): %s", self._failures, error)
        bound = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16), LONGEST_PAUSE_SECONDS)
        await self._sleep(bound * (0.5 + self._draw()))
