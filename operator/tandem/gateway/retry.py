"""What follows from the outcome of one attempt at one worker. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# A status that tells of the worker's state and not of the request: another worker may well serve it.
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})


class Fault(StrEnum):
    """How an attempt failed."""

    CONNECT = "connect"  # no connection, or the host fell silent under one: nothing can be there
    RESET = "reset"  # the connection ended before the answer, as idle connections do when a worker restarts
    TIMEOUT = "timeout"  # no first byte in time
    STATUS = "status"  # an answer with an error status
    HANDOFF = "handoff"  # a prefill answer whose kv_transfer_params cannot be used


@dataclass(frozen=True, slots=True)
class Outcome:
    """The failure of one attempt: `status` with STATUS, and what the worker said in `x-should-retry`, if anything."""

    fault: Fault
    status: int = 0
    should_retry: bool | None = None

    @property
    def label(self) -> str:
        """Short name for metrics and logs: `connect`, `status_503`."""
        return f"status_{self.status}" if self.fault is Fault.STATUS else str(self.fault)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`again`: try once more; `same_worker`: it may be asked again; `set_aside`: let it rest for a while."""

    again: bool
    same_worker: bool = False
    set_aside: bool = False


def judge(outcome: Outcome) -> Verdict:
    """The verdict on a failed attempt, before the first byte reached the client."""
    if outcome.fault is Fault.CONNECT:
        return Verdict(again=True, same_worker=True, set_aside=True)
    if outcome.fault is Fault.RESET:
        return Verdict(again=True, same_worker=True)
    if outcome.fault is Fault.STATUS:
        # 504 with `x-should-retry: false` is the request's own time limit: nobody would be faster.
        return Verdict(again=outcome.status in RETRIED_STATUSES and outcome.should_retry is not False)
    return Verdict(again=True)


def pause(attempt: int, *, draw: float, base: float, cap: float) -> float:
    """Seconds to wait after failed attempt `attempt` (from 1): doubling, spread to 50-150 % by `draw` in [0, 1)."""
    return float(min(cap, base * 2 ** min(attempt - 1, 16)) * (0.5 + draw))
