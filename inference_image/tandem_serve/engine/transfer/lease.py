"""KV that a prefill worker computes and keeps for a decode worker, until that one has it or is heard of no more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tandem_serve.engine.types import FinishReason, SequenceRequest, Update

if TYPE_CHECKING:
    from tandem_serve.engine.kv_cache import SequenceKv

_COMPLETE = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(kw_only=True, eq=False)
class Lease:
    """One prompt's KV, of which the first `tokens` tokens are there. While somebody reads it (`readers`) or the engine
    works on it (`running`) it is not freed, only hidden. `lost`: the rest will not come.
    """

    kv_id: str
    seq_id: int
    prompt: tuple[int, ...]
    expires: float = math.inf
    kv: SequenceKv | None = None
    tokens: int = 0
    readers: int = 0
    running: bool = True
    lost: bool = False
    ended: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def has(self, stop: int) -> bool:
        """Whether the KV of all tokens before `stop` is there."""
        return self.kv is not None and self.tokens >= stop

    async def changed(self, seconds: float) -> bool:
        """Waits for more KV or its end; False when neither came within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def tell(self) -> None:
        """Something has changed."""
        self._news.set()
        self._news = asyncio.Event()


class KvSender(Protocol):
    """A lease as it goes over the wire: a header, then segments, each in a frame with its length and its tag."""

    header: bytes
    size: int
    """Bytes of all."""
    segments: tuple[tuple[int, int], ...]
    """First token and number of tokens of each."""

    def frame(self, number: int) -> memoryview:
        """A segment; good until the next but one is asked for. May run in any thread, once its KV is there."""


class LeaseStore:
    """Leases by id, from the moment a sequence is queued. The event loop's thread is the only user.

    `release` hands memory back to the engine, `cancel` ends a sequence whose KV nobody wants.
    """

    def __init__(
        self,
        *,
        seconds: float,
        clock: Callable[[], float],
        release: Callable[[SequenceKv], None],
        cancel: Callable[[int], None],
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._release = release
        self._cancel = cancel
        self._leases: dict[str, Lease] = {}
        self._running: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def on_start(self, request: SequenceRequest) -> None:
        """A sequence comes into the queue. Its lease does not end by itself before it is offered or complete."""
        if request.keep_kv is not None:
            lease = Lease(kv_id=request.keep_kv, seq_id=request.seq_id, prompt=request.prompt)
            self._leases[lease.kv_id] = self._running[lease.seq_id] = lease

    def on_update(self, update: Update) -> None:
        """Follows a sequence: more of its KV is there, or it has ended."""
        lease = self._running.get(update.seq_id)
        if lease is None:
            return
        if update.kept is not None:
            lease.kv, lease.tokens = update.kept.kv, update.kept.tokens
        if update.finish is not None:
            del self._running[lease.seq_id]
            lease.running, lease.kv = False, update.finish.kv
            if lease.kv is not None and update.finish.reason in _COMPLETE:
                lease.tokens = len(lease.prompt)
                lease.expires = min(lease.expires, self._clock() + self.seconds)
            else:
                lease.lost = True
                self.delete(lease.kv_id)
            self._free_when_unused(lease)
        lease.tell()

    def offered(self, base: str) -> None:
        """The KV of all prompts of a request is offered from now on: somebody must want it."""
        for lease in self._of(base):
            lease.expires = min(lease.expires, self._clock() + self.seconds)

    def renew(self, kv_id: str) -> bool:
        """The decode worker still wants it: the lease begins anew. False when there is none (any more)."""
        lease = self._leases.get(kv_id)
        if lease is None or lease.expires <= self._clock():
            return False
        lease.expires = self._clock() + self.seconds
        return True

    def open(self, kv_id: str) -> Lease | None:
        """A lease to read from, None when there is none (any more). `close` must follow."""
        if not self.renew(kv_id):
            return None
        lease = self._leases[kv_id]
        lease.readers += 1
        return lease

    def close(self, lease: Lease) -> None:
        """The reader is done."""
        lease.readers -= 1
        self._free_when_unused(lease)

    def delete(self, kv_id: str) -> bool:
        """Ends a lease before its time, and the sequence that computes it; False when there was none."""
        lease = self._leases.pop(kv_id, None)
        if lease is None:
            return False
        lease.ended = True
        if lease.running:
            self._cancel(lease.seq_id)
        self._free_when_unused(lease)
        return True

    def delete_offer(self, base: str) -> bool:
        """The same for all prompts of a request: `<base>`, `<base>.1` and so on; False when there was none."""
        ours = self._of(base)
        for lease in ours:
            self.delete(lease.kv_id)
        return bool(ours)

    def expire(self) -> int:
        """Ends what is over; returns how many that were."""
        now = self._clock()
        late = [kv_id for kv_id, lease in self._leases.items() if lease.expires <= now]
        for kv_id in late:
            self.delete(kv_id)
        return len(late)

    def _of(self, base: str) -> list[Lease]:
        return [lease for kv_id, lease in self._leases.items() if kv_id.partition(".")[0] == base]

    def _free_when_unused(self, lease: Lease) -> None:
        if lease.ended and not lease.running and not lease.readers and lease.kv is not None:
            self._release(lease.kv)
            lease.kv = None
