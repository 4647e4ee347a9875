"""One list, then watches that resume where the last one ended: through every failure, until cancelled.

Needs neither a client nor a cluster to be imported: what is followed, and who hears of it, is given.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tandem.kube.errors import UNREACHABLE, ApiError
from tandem.kube.queue import Backoff

if TYPE_CHECKING:
    from tandem.kube.client import Client, Listing
    from tandem.kube.resources import Resource

Event = tuple[str, dict[str, Any]]
"""Type and object, as a watch brings them."""
_TOO_OLD = 410
T = TypeVar("T")


class Source(Protocol[T]):
    """Objects of the API server, as such or as what is kept of them. Both raise ApiError, for ERROR events too."""

    async def list(self) -> Listing[T]:
        """All of them."""

    def watch(self, *, version: str, seconds: int) -> AsyncGenerator[Event, None]:
        """What happened after `version`, for about `seconds`."""


class KindSource:
    """The objects of a kind in one namespace, or (None) in all; of those that match `selector`, if given."""

    def __init__(
        self, client: Client, resource: Resource, namespace: str | None, *, selector: str = "", metadata_only: bool
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._selector = selector
        self._metadata_only = metadata_only

    async def list(self) -> Listing[dict[str, Any]]:
        """See `Source`."""
        return await self._client.list(
            self._resource, self._namespace, label_selector=self._selector, metadata_only=self._metadata_only
        )

    def watch(self, *, version: str, seconds: int) -> AsyncGenerator[Event, None]:
        """See `Source`."""
        return self._client.watch(
            self._resource,
            self._namespace,
            resource_version=version,
            label_selector=self._selector,
            timeout_seconds=seconds,
            metadata_only=self._metadata_only,
        )


class Listener(Protocol[T]):
    """Hears what is found. A listener that raises ValueError or KeyError has not understood an object."""

    def listed(self, listing: Listing[T]) -> None:
        """Everything there is now."""

    def changed(self, kind: str, obj: dict[str, Any]) -> None:
        """One event: ADDED, MODIFIED or DELETED."""

    def followed(self) -> None:
        """A watch works. A list alone tells little: watching may be forbidden."""

    async def failed(self, error: ApiError, failures: int) -> None:
        """The `failures`-th failure in a row, before the next try."""


class Follower(Generic[T]):
    """Follows a source on behalf of a listener. `sleep` and `draw` (in [0, 1)) are injected.

    A watch is asked to end after `watch_seconds` (plus up to half of it), so that one that died in silence is noticed.
    """

    def __init__(
        self,
        source: Source[T],
        listener: Listener[T],
        *,
        sleep: Callable[[float], Awaitable[None]],
        draw: Callable[[], float],
        backoff: Backoff,
        watch_seconds: int,
    ) -> None:
        self._source = source
        self._listener = listener
        self._sleep = sleep
        self._draw = draw
        self._backoff = backoff
        self._watch_seconds = watch_seconds
        self._version = ""
        self._failures = 0
        self._relisting = False

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            try:
                await self._list_and_watch()
            except ApiError as error:
                # A connection that broke is taken up where it was. Whatever an API server refuses, a fresh list is the
                # safe way back.
                await self._recover(error, anew=error.status != UNREACHABLE)
            except (ValueError, KeyError) as error:
                reason = f"the answer was cut off or is no API server's: {error!r}"
                await self._recover(ApiError(UNREACHABLE, "Unreadable", reason), anew=True)

    async def _list_and_watch(self) -> None:
        """Lists if there is no version to resume from, then watches until the watch ends."""
        if not self._version:
            listing = await self._source.list()
            self._listener.listed(listing)
            self._version = listing.resource_version
        seconds = self._watch_seconds + int(self._draw() * self._watch_seconds / 2)
        async with aclosing(self._source.watch(version=self._version, seconds=seconds)) as events:
            async for kind, obj in events:
                # A bookmark brings only a newer version to resume from.
                version = obj["metadata"]["resourceVersion"]
                if kind != "BOOKMARK":
                    self._listener.changed(kind, obj)
                self._version = version
                self._succeeded()
        # Ended as agreed: even if no event came, all is known.
        self._succeeded()
        # A server that ends every watch at once is not asked without pause.
        await self._sleep(self._backoff.base)

    def _succeeded(self) -> None:
        self._failures = 0
        self._relisting = False
        self._listener.followed()

    async def _recover(self, error: ApiError, *, anew: bool) -> None:
        """Decides where to go on from, and waits. A version that is too old is no failure, unless it is all we hear."""
        if anew:
            self._version = ""
        if error.status == _TOO_OLD and not self._relisting:
            self._relisting = True
            return
        self._failures += 1
        await self._listener.failed(error, self._failures)
        await self._sleep(self._backoff.delay(self._failures, self._draw()))
