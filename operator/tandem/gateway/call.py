"""One client request on its way through the router, and the record of what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from multidict import CIMultiDict

from tandem.gateway.body import RequestBody
from tandem.gateway.pairing import Pair


class Kind(Enum):
    """How a route is served when prefill and decode are apart."""

    PAIRED = auto()  # prefill, then decode with its KV
    ALONE = auto()  # decode computes the prompt itself: the route has no hand-off
    ANY = auto()  # any worker knows the answer


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be sent to workers: `path` with its query, `headers` cleared for them, `prefix` for affinity."""

    kind: Kind
    method: str
    path: str
    headers: CIMultiDict[str]
    body: RequestBody | None
    request_id: str
    prefix: bytes

    @property
    def streams(self) -> bool:
        """Whether the answer is to be a stream."""
        return self.body is not None and self.body.streams


@dataclass(slots=True)
class Record:
    """What the audit line tells: workers, attempts and times, never what was asked or answered."""

    request_id: str
    method: str
    route: str
    started: float
    status: int = 0
    outcome: str = "aborted"
    streamed: bool = False
    first_byte: float | None = None
    tries: list[dict[str, str]] = field(default_factory=list)
    local_prefill: str | None = None
    stripped: tuple[str, ...] = ()

    def tried(self, pair: Pair, outcome: str) -> None:
        """Notes an attempt and how it ended (`ok`, or what failed)."""
        names = {"prefill": pair.prefill.name} if pair.prefill else {}
        self.tries.append({**names, "worker": pair.decode.name, "outcome": outcome})

    def line(self, *, now: float) -> dict[str, object]:
        """The fields of the audit line."""
        facts: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "stream": self.streamed,
            "seconds": round(now - self.started, 4),
            "attempts": len(self.tries),
            "tries": self.tries,
        }
        if self.first_byte is not None:
            facts["first_byte_seconds"] = round(self.first_byte - self.started, 4)
        if self.local_prefill:
            facts["local_prefill"] = self.local_prefill
        if self.stripped:
            facts["stripped"] = list(self.stripped)
        return facts
