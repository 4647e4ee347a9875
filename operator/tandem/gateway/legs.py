"""One attempt: the legs of a request at the workers chosen for it, with the book-keeping of load, rests and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from tandem.gateway import protocol, sglang
from tandem.gateway.body import RequestBody, written
from tandem.gateway.call import Call, Record
from tandem.gateway.drivers import driver
from tandem.gateway.events import value_of
from tandem.gateway.fleet import Endpoint, Role
from tandem.gateway.headers import leg_id
from tandem.gateway.metrics import Metrics
from tandem.gateway.pairing import Pair
from tandem.gateway.protocol import Backend, BadHandoff, Handoff
from tandem.gateway.retry import Fault, Outcome, Verdict, judge
from tandem.gateway.settings import RouterSettings
from tandem.gateway.spans import Spans
from tandem.gateway.targets import Targets
from tandem.gateway.upstream import Answer, Leg, LegFailed, StreamAnswer, StreamBroken, Upstream, parse_answer

GIVE_BACK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer whose first byte is here; `close` when it has been passed on, or will not be."""

    answer: Answer
    pair: Pair
    targets: Targets

    def close(self) -> None:
        """Ends the request at the worker if it still runs, and takes it off the worker's load."""
        if isinstance(self.answer, StreamAnswer):
            self.answer.close()
        self.targets.end(self.pair.decode)


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed attempt: at which worker, why, and what follows from it."""

    pair: Pair
    endpoint: Endpoint
    cause: LegFailed
    verdict: Verdict

    @property
    def at_prefill(self) -> bool:
        """Whether decode was not reached because prefill failed."""
        return self.endpoint.role is Role.PREFILL

    @property
    def late_after_handoff(self) -> bool:
        """Whether decode had a hand-off and showed nothing of its stream while the KV was safe to pull."""
        return self.pair.prefill is not None and not self.at_prefill and self.cause.outcome.fault is Fault.TIMEOUT


class Legs:
    """Sends the legs of an attempt; `clock` gives monotonic seconds, `draw` numbers in [0, 1)."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        targets: Targets,
        upstream: Upstream,
        metrics: Metrics,
        spans: Spans,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._upstream = upstream
        self._metrics = metrics
        self._spans = spans
        self._clock = clock
        self._draw = draw
        self._driver = driver(settings.backend)
        self._behind: set[asyncio.Task[None]] = set()

    async def attempt(self, call: Call, pair: Pair, *, deadline: float, record: Record) -> Opened | Failed:
        """The answer of the pair, or of decode alone when prefill has nothing to hand off; or what failed.

        `pair.decode` counts as loaded from now on, so that others choose with this request in mind.
        """
        self._targets.begin(pair.decode)
        opened: Opened | None = None
        try:
            answer = await self._answer(call, pair, deadline=deadline, record=record)
            opened = Opened(answer, pair, self._targets)
            record.tried(pair, "ok")
            return opened
        except _AtWorker as failure:
            record.tried(pair, failure.cause.outcome.label)
            return Failed(pair, failure.endpoint, failure.cause, judge(failure.cause.outcome))
        except asyncio.CancelledError:
            record.tried(pair, "cancelled")
            raise
        finally:
            if opened is None:
                self._targets.circuits.abandoned(pair.decode.identity)
                self._targets.end(pair.decode)

    async def close(self) -> None:
        """Waits for what prefill workers still have to be told or to tell."""
        await asyncio.gather(*self._behind)

    async def _answer(self, call: Call, pair: Pair, *, deadline: float, record: Record) -> Answer:
        identity = leg_id(call.request_id)
        raw = call.body.raw if call.body else None
        if self._settings.backend is Backend.SGLANG and pair.prefill and raw is not None:
            return await self._together(call, pair, pair.prefill, raw, identity=identity, deadline=deadline)
        offered = None
        if pair.prefill and call.body:
            offered = await self._prefill(call, call.body.fields, pair.prefill, identity=identity, deadline=deadline)
            if offered is None:
                record.local_prefill = "not_offered"
        if offered is None or pair.prefill is None or call.body is None:
            if record.local_prefill:
                self._metrics.local_prefill(record.local_prefill)
            limit = self._settings.first_byte_seconds if call.streams else self._settings.request_seconds
            return await self._leg(call, pair.decode, raw, identity=identity, limit=limit, deadline=deadline)
        try:
            return await self._decode(call, pair, call.body, offered.handoff, identity=identity, deadline=deadline)
        except BaseException:
            offered.rest.cancel()
            self._give_back(pair.prefill, offered.handoff)
            raise

    async def _prefill(
        self, call: Call, fields: protocol.Body, endpoint: Endpoint, *, identity: str, deadline: float
    ) -> _Offered | None:
        """What prefill offers, as soon as it does; its work on the prompt may go on after that."""
        content, limit = written(self._driver.ask(fields)), self._settings.prefill_seconds
        answer: Answer | None = None
        handoff: Handoff | BadHandoff | None = None
        self._targets.begin(endpoint)
        try:
            answer = await self._leg(call, endpoint, content, identity=identity, limit=limit, deadline=deadline)
            parsed = value_of(answer.first) if isinstance(answer, StreamAnswer) else parse_answer(answer.content)
            handoff = self._driver.read(parsed, endpoint)
            if isinstance(handoff, BadHandoff):
                self._metrics.bad_handoff(endpoint, handoff)
                raise _AtWorker(endpoint, LegFailed(Outcome(Fault.HANDOFF), str(handoff)))
        finally:
            if not isinstance(handoff, Handoff):
                self._over(answer, endpoint)
        return None if handoff is None else _Offered(handoff, self._later(self._drained(answer, endpoint, limit)))

    async def _decode(
        self, call: Call, pair: Pair, body: RequestBody, handoff: Handoff, *, identity: str, deadline: float
    ) -> Answer:
        limit = self._settings.request_seconds
        if call.streams:
            # Without a stream the first byte is the whole answer, and says nothing about when the KV was pulled.
            # A torch decode worker keeps the KV alive at prefill while it waits, and checks what it gets.
            keeps_alive = self._settings.backend is Backend.TORCH
            limit = self._settings.first_byte_seconds if keeps_alive else self._settings.decode_first_byte_seconds
        content = self._driver.give(body, handoff)
        answer = await self._leg(call, pair.decode, content, identity=identity, limit=limit, deadline=deadline)
        self._metrics.paired(pair.decode.revision)
        return answer

    async def _together(
        self, call: Call, pair: Pair, prefill: Endpoint, raw: bytes, *, identity: str, deadline: float
    ) -> Answer:
        """Both legs at once, with decode's answer. When either fails before that, the other one is ended."""
        content = sglang.with_room(raw, host=prefill.address, port=prefill.bootstrap_port, draw=self._draw())
        limit = self._settings.first_byte_seconds if call.streams else self._settings.request_seconds
        self._targets.begin(prefill)
        legs = [
            asyncio.create_task(self._leg(call, worker, content, identity=identity, limit=limit, deadline=deadline))
            for worker in (prefill, pair.decode)
        ]
        try:
            await asyncio.wait(legs, return_when=asyncio.FIRST_COMPLETED)
            if not legs[1].done():
                legs[0].result()
            answer = await legs[1]
        except BaseException:
            for leg in legs:
                leg.cancel()
            raise
        finally:
            self._later(self._drained_leg(legs[0], prefill))
        self._metrics.paired(pair.decode.revision)
        return answer

    async def _drained(self, answer: Answer | None, prefill: Endpoint, seconds: float | None) -> None:
        """Reads prefill's answer to its end, until when it counts as that worker's load: closed earlier, the worker
        would give the KV up."""
        try:
            if isinstance(answer, StreamAnswer):
                async with asyncio.timeout(seconds):
                    async for _ in answer.rest:
                        pass
        except (StreamBroken, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._over(answer, prefill)

    async def _drained_leg(self, leg: asyncio.Task[Answer], prefill: Endpoint) -> None:
        """`_drained` for a leg that may have no answer yet, or never."""
        answer: Answer | None = None
        try:
            answer = await leg
        except (_AtWorker, asyncio.CancelledError):
            pass
        finally:
            await self._drained(answer, prefill, None)

    def _over(self, answer: Answer | None, prefill: Endpoint) -> None:
        if isinstance(answer, StreamAnswer):
            answer.close()
        self._targets.circuits.abandoned(prefill.identity)
        self._targets.end(prefill)

    async def _leg(
        self, call: Call, endpoint: Endpoint, content: bytes | None, *, identity: str, limit: float, deadline: float
    ) -> Answer:
        headers = call.headers.copy()
        headers["X-Request-Id"] = identity
        seconds = max(0.001, min(limit, deadline - self._clock()))
        span = self._spans.leg(endpoint, headers)
        leg = Leg(endpoint, call.method, call.path, headers, content, seconds)
        try:
            answer = await self._upstream.send(leg)
        except LegFailed as cause:
            span.end(cause.outcome.label, status=cause.outcome.status or None)
            self._metrics.attempted(endpoint, cause.outcome.label)
            self._judge_worker(endpoint, cause.outcome)
            raise _AtWorker(endpoint, cause) from None
        except asyncio.CancelledError:
            span.end("cancelled")
            self._metrics.attempted(endpoint, "cancelled")
            raise
        self._metrics.attempted(endpoint, "ok")
        self._targets.circuits.reached(endpoint.identity)
        if isinstance(answer, StreamAnswer):
            return replace(answer, on_close=partial(span.end, "ok", status=answer.status))
        span.end("ok", status=answer.status)
        return answer

    def _judge_worker(self, endpoint: Endpoint, outcome: Outcome) -> None:
        if judge(outcome).set_aside:
            self._targets.circuits.failed(endpoint.identity)
        elif outcome.fault is Fault.STATUS:
            self._targets.circuits.reached(endpoint.identity)

    def _give_back(self, prefill: Endpoint, handoff: Handoff) -> None:
        """Tells a torch prefill worker that nobody will pull this KV: its memory is free before the lease ends."""
        if self._settings.backend is not Backend.TORCH:
            return
        url = f"{prefill.url}/kv/{quote(handoff.request_id, safe='')}?prompts=all"
        headers = {"X-Tandem-Kv-Token": handoff.token}
        self._later(self._upstream.discard("DELETE", url, headers=headers, seconds=GIVE_BACK_SECONDS))

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task


@dataclass(frozen=True, slots=True)
class _Offered:
    """A hand-off, and what prefill still does for it: cancelled, it stops."""

    handoff: Handoff
    rest: asyncio.Task[None]


class _AtWorker(Exception):
    """A leg failed at this worker."""

    def __init__(self, endpoint: Endpoint, cause: LegFailed) -> None:
        super().__init__(f"{endpoint.name}: {cause.detail}")
        self.endpoint = endpoint
        self.cause = cause
