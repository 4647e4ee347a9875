"""KV that a prefill worker keeps for a decode worker, until that one has it or is not heard of any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tandem_serve.engine.kv_cache import SequenceKv


@dataclass(kw_only=True)
class Lease:
    """One prompt's KV. While somebody reads it (`readers`) it is not freed, only hidden."""

    kv: SequenceKv
    prompt: tuple[int, ...]
    expires: float
    readers: int = 0
    ended: bool = False


class KvSender(Protocol):
    """A lease as it goes over the wire: a header, then `parts` segments, each with its tag."""

    header: bytes
    size: int
    """Bytes of all."""
    tokens: int
    parts: int

    def segment(self, number: int) -> tuple[memoryview, bytes]:
        """Bytes and tag of a segment; good until the next but one is asked for. May run in any thread."""


class LeaseStore:
    """Leases by id. The event loop's thread is the only user; `release` hands memory back to the engine."""

    def __init__(self, *, seconds: float, clock: Callable[[], float], release: Callable[[SequenceKv], None]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._release = release
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def put(self, kv_id: str, kv: SequenceKv, prompt: tuple[int, ...]) -> None:
        """Keeps a KV from now on."""
        self._leases[kv_id] = Lease(kv=kv, prompt=prompt, expires=self._clock() + self.seconds)

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
        """Ends a lease before its time; False when there was none."""
        lease = self._leases.pop(kv_id, None)
        if lease is None:
            return False
        lease.ended = True
        self._free_when_unused(lease)
        return True

    def delete_offer(self, base: str) -> bool:
        """The same for all prompts of a request: `<base>`, `<base>.1` and so on; False when there was none."""
        ours = [kv_id for kv_id in self._leases if kv_id.partition(".")[0] == base]
        for kv_id in ours:
            self.delete(kv_id)
        return bool(ours)

    def expire(self) -> int:
        """Ends what is over; returns how many that were."""
        now = self._clock()
        late = [kv_id for kv_id, lease in self._leases.items() if lease.expires <= now]
        for kv_id in late:
            self.delete(kv_id)
        return len(late)

    def _free_when_unused(self, lease: Lease) -> None:
        if lease.ended and lease.readers == 0:
            self._release(lease.kv)
