"""The routes that workers serve: from a client's request to its last byte.

Plain ASGI, because it must hear the client hang up while it waits for a worker, and because every chunk passes here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

from tandem.gateway import body, errors, headers, relay
from tandem.gateway.attempts import Attempts, GaveUp
from tandem.gateway.audit import Audit
from tandem.gateway.balance import Policy
from tandem.gateway.body import ClientGone, RequestBody, Room
from tandem.gateway.call import Call, Kind, Record
from tandem.gateway.errors import HttpError
from tandem.gateway.legs import Opened
from tandem.gateway.lifecycle import Lifecycle
from tandem.gateway.metrics import Metrics
from tandem.gateway.pairing import Pair
from tandem.gateway.prefix import prefix_of
from tandem.gateway.relay import RawHeaders, StreamRelay
from tandem.gateway.settings import RouterSettings
from tandem.gateway.spans import Spans
from tandem.gateway.upstream import StreamAnswer
from tandem_edge.keys import ApiKeys

# The de-facto status for "the client closed the request"; seen in logs only.
CLIENT_CLOSED = 499
# After these the rest of the body still lies in the connection, which is of no use to a next request.
_BODY_LEFT_UNREAD = frozenset({408, 413, 503})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What every route works with; `clock` gives monotonic seconds, without `keys` everyone may ask."""

    settings: RouterSettings
    attempts: Attempts
    lifecycle: Lifecycle
    room: Room
    metrics: Metrics
    audit: Audit
    clock: Callable[[], float]
    keys: ApiKeys | None
    spans: Spans


class Proxy:
    """An ASGI application that serves one route. `done_marker`: its streams end with `[DONE]`."""

    def __init__(self, services: Services, *, route: str, kind: Kind, done_marker: bool = False) -> None:
        self._services = services
        self._route = route
        self._kind = kind
        self._done_marker = done_marker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request and accounts for it."""
        services = self._services
        record = Record(
            request_id=headers.request_id(scope["headers"]),
            method=scope["method"],
            route=self._route,
            started=services.clock(),
        )
        taken = _taken(send, services.settings.client_seconds)
        exchange = _Exchange(services, record, taken, done_marker=self._done_marker)
        try:
            with services.spans.request(scope["headers"], record), services.room.share() as take:
                await self._serve(exchange, scope, receive, take)
        except ClientGone:
            exchange.client_gone()
        finally:
            now = services.clock()
            first = record.first_byte - record.started if record.first_byte is not None else None
            services.metrics.finished(
                route=self._route, outcome=record.outcome, seconds=now - record.started, first_event=first
            )
            services.audit.write(record, now=now)

    async def _serve(self, exchange: _Exchange, scope: Scope, receive: Receive, take: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        keys = self._services.keys
        try:
            if keys is not None and not keys.allows(scope["headers"]):
                await self._keep_out(exchange, scope, receive)
                return
            request = await self._read(scope, receive, take)
        except HttpError as error:
            await exchange.fail(error, close=error.status in _BODY_LEFT_UNREAD)
            return
        work = loop.create_task(exchange.run(self._call(scope, exchange.record, request)))
        gone = loop.create_task(_hangs_up(receive))
        self._services.lifecycle.track(work)
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when the server cancels this task: no leg may outlive its request.
            hung_up = not work.done() and not self._services.lifecycle.stopping
            gone.cancel()
            work.cancel()
            await asyncio.wait((work, gone))
        if not work.cancelled():
            work.result()
        elif hung_up:
            exchange.client_gone()
        else:
            await exchange.stopped()

    async def _keep_out(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        given = {name for name, _ in scope["headers"]}
        # Whoever waits for leave to send gets its answer instead; others would lose it while they still send.
        complete = b"expect" not in given and await body.discard(receive, limit=self._services.settings.max_body_bytes)
        await exchange.fail(errors.wrong_key(given=b"authorization" in given), close=not complete)

    async def _read(self, scope: Scope, receive: Receive, take: Callable[[int], None]) -> RequestBody | None:
        settings = self._services.settings
        try:
            async with asyncio.timeout(settings.body_seconds):
                raw = await body.read(scope, receive, limit=settings.max_body_bytes, take=take)
        except TimeoutError:
            raise errors.body_too_slow(settings.body_seconds) from None
        return body.parse(raw) if scope["method"] == "POST" else None

    def _call(self, scope: Scope, record: Record, request: RequestBody | None) -> Call:
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")
        wants_prefix = request is not None and self._services.settings.policy is Policy.PREFIX_AFFINITY
        if request is not None:
            record.stripped = request.stripped
        return Call(
            kind=self._kind,
            method=record.method,
            path=f"{path}?{query}" if query else path,
            headers=headers.to_worker(scope["headers"]),
            body=request,
            request_id=record.request_id,
            prefix=prefix_of(request.fields) if request is not None and wants_prefix else b"",
        )


class _Exchange:
    """The answering side of one request."""

    def __init__(self, services: Services, record: Record, send: Send, *, done_marker: bool) -> None:
        self._services = services
        self._send = send
        self.record = record
        self._answering = False
        self._stream = StreamRelay(send, request_id=record.request_id, ends_with_done=done_marker)

    async def run(self, call: Call) -> None:
        """Gets an answer and passes it on; errors too. Cancelled when the client hangs up or the router stops."""
        try:
            opened = await self._services.attempts.open(call, self.record)
        except GaveUp as given_up:
            content_headers, content = relay.passed_on(given_up.answer, self.record.request_id)
            outcome = _outcome_of(given_up.answer.status)
            await self._whole(given_up.answer.status, content_headers, content, given_up.pair, outcome)
        except HttpError as error:
            await self.fail(error)
        except Exception:
            log.exception("request %s failed in the router", self.record.request_id)
            await self.fail(errors.internal())
        else:
            try:
                await self._pass_on(opened)
            finally:
                opened.close()

    async def fail(self, error: HttpError, *, close: bool = False) -> None:
        """Answers with an error of the router; `close` when the rest of the request must not be waited for."""
        raw = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        raw.append((b"content-type", b"application/json"))
        if close and not self._services.lifecycle.closing:
            raw.append((b"connection", b"close"))
        await self._whole(error.status, raw, error.body(self.record.request_id), None, error.code or error.kind)

    async def stopped(self) -> None:
        """The router stops before the request was done: says so in whatever form is still possible."""
        error = errors.stopping(retry_after=self._services.settings.retry_after_seconds)
        if self._stream.started:
            self.record.outcome = "router_stopping"
            await self._stream.fail(error)
        elif not self._answering:
            await self.fail(error)

    def client_gone(self) -> None:
        """The client hung up."""
        self.record.status = self.record.status or CLIENT_CLOSED
        self.record.outcome = "client_gone"

    async def _pass_on(self, opened: Opened) -> None:
        answer = opened.answer
        if not isinstance(answer, StreamAnswer):
            content_headers, content = relay.passed_on(answer, self.record.request_id)
            await self._whole(answer.status, content_headers, content, opened.pair, "ok")
            return
        self.record.status, self.record.streamed = answer.status, True
        own = self._own_headers(opened.pair)
        complete = await self._stream.run(answer, [*headers.to_client(answer.headers), *own], on_first=self._first)
        self.record.outcome = "ok" if complete else "stream_broken"

    async def _whole(
        self, status: int, content_headers: RawHeaders, content: bytes, pair: Pair | None, outcome: str
    ) -> None:
        self.record.status, self.record.outcome = status, outcome
        self._answering = True
        every = [*content_headers, *self._own_headers(pair)]
        await relay.send_whole(self._send, status=status, headers=every, content=content)

    def _own_headers(self, pair: Pair | None) -> RawHeaders:
        own = [
            (b"x-request-id", self.record.request_id.encode()),
            (b"x-tandem-attempts", str(len(self.record.tries)).encode()),
        ]
        if pair is not None:
            own.append((f"x-tandem-{_part(pair)}".encode(), pair.decode.name.encode("latin-1", "replace")))
        if pair is not None and pair.prefill is not None:
            own.append((b"x-tandem-prefill", pair.prefill.name.encode("latin-1", "replace")))
        if self._services.lifecycle.closing:
            own.append((b"connection", b"close"))
        return own

    def _first(self) -> None:
        self.record.first_byte = self._services.clock()


def _taken(send: Send, seconds: float) -> Send:
    """`send`, but a client that takes nothing for so long counts as gone: raises ClientGone."""

    async def timed(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            raise ClientGone from None

    return timed


def _outcome_of(status: int) -> str:
    """The word for metrics and log lines of a worker's error that was passed on."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "overloaded"
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return "timeout"
    return "client_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "worker_error"


def _part(pair: Pair) -> str:
    return "worker" if pair.decode.role == "agg" else pair.decode.role


async def _hangs_up(receive: Receive) -> None:
    """Returns when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
