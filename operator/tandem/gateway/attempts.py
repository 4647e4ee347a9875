"""Gets an answer for a call: attempt after attempt, each at other workers, until one has a first byte to show.

Nothing has reached the client while this runs, so every failure here is one that the client does not see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from tandem.gateway import errors, protocol
from tandem.gateway.call import Call, Kind, Record
from tandem.gateway.errors import HttpError
from tandem.gateway.fleet import FleetView, Role
from tandem.gateway.legs import Failed, Legs, Opened
from tandem.gateway.metrics import Metrics
from tandem.gateway.pairing import Pair
from tandem.gateway.protocol import Backend
from tandem.gateway.retry import Fault, pause
from tandem.gateway.settings import Mode, RouterSettings
from tandem.gateway.targets import Targets, Tried
from tandem.gateway.upstream import WholeAnswer


class GaveUp(Exception):
    """A worker's own error is the answer: another attempt cannot mend it, or none was left."""

    def __init__(self, answer: WholeAnswer, pair: Pair) -> None:
        super().__init__(f"a worker answered {answer.status}")
        self.answer = answer
        self.pair = pair


@dataclass(slots=True)
class _Progress:
    """Where the attempts for one call stand; `alone` says why decode is to compute the prompt itself, `reached` whether
    any worker that failed could be connected to."""

    deadline: float
    alone: str | None
    tried: Tried = field(default_factory=Tried)
    number: int = 0
    reached: bool = False
    last: Failed | None = None

    def note(self, failed: Failed, *, limit: int) -> bool:
        """Takes in a failure; whether to go on.

        A hand-off that failed at the last attempt leaves one more, without prefill; overload does not: the decode
        workers must not get the work that prefill refuses. Decode that only was too late for the KV is not at fault.
        """
        self.last = failed
        self.reached = self.reached or failed.cause.outcome.fault is not Fault.CONNECT
        if not failed.verdict.again:
            return False
        self.tried.add(failed.endpoint, replace(failed.verdict, same_worker=True) if self.late else failed.verdict)
        if self.number < limit:
            return True
        if self.alone is None and (self.late or (failed.at_prefill and not _overload(failed))):
            self.alone = "handoff_late" if self.late else "prefill_failed"
            return True
        return False

    @property
    def late(self) -> bool:
        """Whether the last attempt ran out of the time in which its KV could be pulled."""
        return self.last is not None and self.last.late_after_handoff


class Attempts:
    """The retry loop; `clock`, `sleep` and `draw` are injected."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        view: FleetView,
        targets: Targets,
        legs: Legs,
        metrics: Metrics,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._view = view
        self._targets = targets
        self._legs = legs
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._draw = draw

    async def open(self, call: Call, record: Record) -> Opened:
        """The first answer to be had. Raises GaveUp (a worker's error to pass on) or HttpError (the router's own)."""
        progress = _Progress(deadline=self._clock() + self._settings.request_seconds, alone=self._why_alone(call))
        reason: str | None = None
        while (pair := self._pick(call, progress, record)) is not None:
            if reason is not None:
                self._metrics.retried(reason)
            progress.number += 1
            outcome = await self._legs.attempt(call, pair, deadline=progress.deadline, record=record)
            if isinstance(outcome, Opened):
                return outcome
            if not progress.note(outcome, limit=self._settings.attempts) or self._clock() >= progress.deadline:
                break
            reason = outcome.cause.outcome.label
            await self._sleep(self._pause_after(progress.number))
        raise self._give_up(progress)

    def _why_alone(self, call: Call) -> str | None:
        if not self._pairs(call) or call.body is None:
            return None
        return (
            "route"
            if call.kind is Kind.ALONE
            else protocol.why_not_handed_off(self._settings.backend, call.body.fields)
        )

    def _pairs(self, call: Call) -> bool:
        return self._settings.mode is Mode.DISAGG and call.kind is not Kind.ANY

    def _pick(self, call: Call, progress: _Progress, record: Record) -> Pair | None:
        if not self._pairs(call):
            worker = self._targets.pick_one(self._roles(), progress.tried, prefix=call.prefix)
            return Pair(prefill=None, decode=worker) if worker else None
        pair = self._targets.pick_pair(progress.tried, prefix=call.prefix, hand_off=progress.alone is None)
        if pair and progress.late and pair.decode.identity in progress.tried.failed:
            # Nobody else to ask: the same worker again, whose queue may now take as long as it takes.
            if self._never_alone(call):
                return None
            progress.alone = progress.alone or "handoff_late"
            pair = Pair(prefill=None, decode=pair.decode)
        if pair and pair.prefill is None:
            if self._never_alone(call):
                return None
            if progress.alone is None and progress.last and _overload(progress.last):
                return None
            failed_before = progress.last is not None and progress.last.at_prefill
            record.local_prefill = progress.alone or ("prefill_failed" if failed_before else "no_prefill_ready")
        return pair

    def _never_alone(self, call: Call) -> bool:
        """Whether decode cannot compute this prompt itself."""
        return self._settings.backend is Backend.SGLANG and call.kind is Kind.PAIRED

    def _roles(self) -> list[Role]:
        return [Role.AGG] if self._settings.mode is Mode.AGG else [Role.DECODE, Role.PREFILL]

    def _pause_after(self, number: int) -> float:
        return pause(
            number,
            draw=self._draw(),
            base=self._settings.retry_pause_seconds,
            cap=self._settings.retry_pause_limit_seconds,
        )

    def _give_up(self, progress: _Progress) -> GaveUp | HttpError:
        last = progress.last
        if last is None:
            return errors.no_worker(self._who_is_missing(), retry_after=self._settings.retry_after_seconds)
        if last.cause.whole is not None:
            return GaveUp(last.cause.whole, last.pair)
        tries = f"{progress.number} attempt{'s' if progress.number > 1 else ''}"
        message = f"no worker answered in {tries}; the last was {last.endpoint.name}: {last.cause.detail}"
        if not progress.reached:
            return errors.not_reached(message, retry_after=self._settings.retry_after_seconds)
        return errors.timed_out(message) if last.cause.outcome.fault is Fault.TIMEOUT else errors.failed(message)

    def _who_is_missing(self) -> str:
        role = Role.AGG if self._settings.mode is Mode.AGG else Role.DECODE
        if self._settings.backend is Backend.SGLANG and role is Role.DECODE and self._targets.fleet.ready(role):
            role = Role.PREFILL
        trouble = f"; the worker list cannot be followed: {self._view.trouble}" if self._view.trouble else ""
        return (
            f"no {role} worker of {self._settings.deployment} is ready "
            f"(ready/known: {self._targets.fleet.describe()}){trouble}"
        )


def _overload(failed: Failed) -> bool:
    return failed.at_prefill and failed.cause.outcome.status == 429
