"""A decode worker's offers: it keeps their leases alive, fetches once a sequence has its memory, and lets go.

What can go wrong ends in a local prefill of what has not come, with a reason for the metrics; wrong bytes are never
taken over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tandem_serve.engine.transfer.fetch import Source
from tandem_serve.engine.transfer.identity import KvRefusedError
from tandem_serve.engine.transfer.wire import KvPart
from tandem_serve.engine.types import RemoteKv, SequenceRequest, Update

log = logging.getLogger(__name__)
HEARTBEATS_PER_LEASE = 3


class Adopter(Protocol):
    """What the puller needs of the engine."""

    def adopt(self, seq_id: int, part: KvPart) -> None:
        """Takes over KV."""

    def prefill_locally(self, seq_id: int) -> None:
        """Goes on without."""


class PullMetrics(Protocol):
    """What the puller counts."""

    def kv_moved(self, direction: str, *, tokens: int, nbytes: int) -> None:
        """KV came."""

    def kv_failed(self, reason: str) -> None:
        """A hand-off failed."""

    def fell_back(self, reason: str, *, tokens: int) -> None:
        """So many tokens of a prompt are computed here instead."""


class _Fetch:
    """A running download and what has come of it; the copies (`n`) of a prompt share it."""

    def __init__(self) -> None:
        self.parts: list[KvPart] = []
        self.error: KvRefusedError | None = None
        self.ended = False
        self._news = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self) -> AsyncIterator[KvPart]:
        """All parts, as they come. Raises `KvRefusedError` after the last one of a download that failed."""
        seen = 0
        while True:
            while seen < len(self.parts):
                yield self.parts[seen]
                seen += 1
            if self.error is not None:
                raise self.error
            if self.ended:
                return
            await self._news.wait()


@dataclass
class _Offer:
    """KV at a prefill worker, the sequences that have not got it yet, and what works for them."""

    remote: RemoteKv
    heart: asyncio.Task[None]
    waiting: set[int] = field(default_factory=set)
    fetches: dict[int, tuple[_Fetch, asyncio.Task[None]]] = field(default_factory=dict)
    """By the first token."""


class KvPuller:
    """The offers to the sequences of one engine; belongs to one event loop. `sleep` waits between heartbeats."""

    def __init__(
        self,
        *,
        source: Source,
        engine: Adopter,
        metrics: PullMetrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._engine = engine
        self._metrics = metrics
        self._sleep = sleep
        self._offers: dict[str, _Offer] = {}
        self._followers: dict[int, asyncio.Task[None]] = {}
        self._behind: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Offers that are not done with."""
        return len(self._offers)

    def on_start(self, request: SequenceRequest) -> None:
        """A sequence comes into the queue: from now on its KV is kept alive."""
        remote = request.remote
        if remote is None:
            return
        offer = self._offers.get(remote.kv_id)
        if offer is None:
            offer = self._offers[remote.kv_id] = _Offer(remote, asyncio.ensure_future(self._beat(remote)))
        offer.waiting.add(request.seq_id)

    def on_update(self, request: SequenceRequest, update: Update) -> None:
        """Follows a sequence: fetches when its memory is there, lets go when nothing is missing or it has ended."""
        remote = request.remote
        offer = self._offers.get(remote.kv_id) if remote is not None else None
        if offer is None or request.seq_id not in offer.waiting:
            return
        if update.finish is not None or (update.started and update.pull_from is None):
            follower = self._followers.get(request.seq_id)
            if follower is not None:
                follower.cancel()
            self._done(offer, request.seq_id)
        elif update.pull_from is not None:
            follower = asyncio.ensure_future(self._serve(request, offer, update.pull_from))
            self._followers[request.seq_id] = follower
            follower.add_done_callback(lambda _: self._followers.pop(request.seq_id, None))

    def decline(self, remotes: Iterable[RemoteKv]) -> None:
        """Tells the prefill worker that nobody here takes this KV: it need not compute it or keep it any longer."""
        for remote in remotes:
            self._later(self._source.free(remote))

    async def close(self) -> None:
        """Ends everything; prefill workers are still told."""
        followers = list(self._followers.values())
        for follower in followers:
            follower.cancel()
        for offer in list(self._offers.values()):
            self._drop(offer)
        await asyncio.gather(*followers, *self._behind, return_exceptions=True)

    async def _serve(self, request: SequenceRequest, offer: _Offer, first: int) -> None:
        missing = len(request.prompt) - 1 - first
        try:
            async for part in self._fetch(offer, request.prompt, first).follow():
                self._engine.adopt(request.seq_id, part)
                missing -= part.count
        except KvRefusedError as error:
            log.warning(
                "the KV could not be taken over; prefilling here",
                extra={
                    "request_id": request.request_id,
                    "reason": error.reason,
                    "detail": str(error),
                    "tokens": missing,
                },
            )
            self._metrics.fell_back(error.reason, tokens=missing)
            self._engine.prefill_locally(request.seq_id)
        self._done(offer, request.seq_id)

    def _fetch(self, offer: _Offer, prompt: tuple[int, ...], first: int) -> _Fetch:
        if first not in offer.fetches:
            fetch = _Fetch()
            task = asyncio.ensure_future(self._download(fetch, offer.remote, prompt, first))
            offer.fetches[first] = (fetch, task)
        return offer.fetches[first][0]

    async def _download(self, fetch: _Fetch, remote: RemoteKv, prompt: tuple[int, ...], first: int) -> None:
        try:
            async for part in self._source.parts(remote, prompt, first):
                fetch.parts.append(part)
                self._metrics.kv_moved("received", tokens=part.count, nbytes=part.data.nbytes)
                fetch.tell()
        except KvRefusedError as error:
            fetch.error = error
        except Exception as error:  # whatever it is, the sequence must go on
            log.exception("a pull failed in an unforeseen way")
            fetch.error = KvRefusedError("internal", type(error).__name__)
        if fetch.error is not None:
            self._metrics.kv_failed(fetch.error.reason)
        fetch.ended = True
        fetch.tell()

    async def _beat(self, remote: RemoteKv) -> None:
        """Renews the lease until nobody waits for the KV any more, or it is gone."""
        while True:
            await self._sleep(remote.lease_seconds / HEARTBEATS_PER_LEASE)
            if not await self._source.renew(remote):
                return

    def _done(self, offer: _Offer, seq_id: int) -> None:
        offer.waiting.discard(seq_id)
        if not offer.waiting:
            self._drop(offer)

    def _drop(self, offer: _Offer) -> None:
        if self._offers.get(offer.remote.kv_id) is not offer:
            return
        del self._offers[offer.remote.kv_id]
        offer.heart.cancel()
        for _, task in offer.fetches.values():
            task.cancel()
        self._later(self._source.free(offer.remote))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
