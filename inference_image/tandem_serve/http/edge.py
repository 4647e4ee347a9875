"""The outermost layer: request ids, keys, the limits of bodies and of clients that stand still, one log line each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tandem_serve.http.errors import ApiError, body_too_large, error_body, failed, too_many_bodies, wrong_key
from tandem_serve.spans import Spans

log = logging.getLogger(__name__)
_SAFE_ID = re.compile(rb"^[\x21-\x7e]{1,128}$")
_TRACE = re.compile(rb"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_DISCARD_SECONDS = 5.0
_LOGGED_PATH = 200
_QUIET = frozenset({"/health", "/livez", "/metrics"})
_HANDOFFS = "/kv/"
_GENERATIONS = frozenset({"/v1/completions", "/v1/chat/completions", "/generate"})
MOST_CONTAINERS = 200_000
"""Lists and objects of a body: each takes thirty times its two bytes."""
SMALL_BODY_BYTES = 1 << 16


class BodyMemory:
    """Bytes of bodies that may be in memory at once; the first 64 KiB of each are not counted."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, nbytes: int) -> bool:
        """Whether there was room; then it is taken."""
        if nbytes > self._left:
            return False
        self._left -= nbytes
        return True

    def give_back(self, nbytes: int) -> None:
        """The bytes are gone."""
        self._left += nbytes


@dataclass(frozen=True, kw_only=True)
class EdgeRules:
    """A body above `max_body` bytes is answered with 413 without being read to its end, one that takes longer than
    `patience` seconds with 408; a client that takes nothing of its answer for that long is left.
    """

    max_body: int
    patience: float
    bodies: BodyMemory
    allows: Callable[[Iterable[tuple[bytes, bytes]]], bool] | None = None
    """Whether a request with these headers may pass; None: everyone may."""
    full: Callable[[], ApiError | None] = lambda: None
    """Why one more generation would be refused at this moment, if so: then its body is not even parsed."""


class Edge:
    """ASGI middleware. `route_of` names the route of a request, for metrics and spans."""

    def __init__(
        self,
        app: ASGIApp,
        rules: EdgeRules,
        *,
        route_of: Callable[[Scope], str],
        on_answer: Callable[[str, int], None],
        spans: Spans | None = None,
    ) -> None:
        self._app = app
        self._rules = rules
        self._route_of = route_of
        self._on_answer = on_answer
        self._spans = spans or Spans()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._rules)
        with self._spans.request(scope, request_id=exchange.request_id) as answered:
            try:
                await exchange.run(self._app)
            finally:
                route = self._route_of(scope)
                self._on_answer(route, exchange.status)
                answered(route, exchange.status)


class _NotTakenError(Exception):
    """The client does not take its answer."""


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, rules: EdgeRules) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._rules = rules
        self._body_until = asyncio.get_running_loop().time() + rules.patience
        self._body_is_there = False
        self._headers = headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _SAFE_ID.match(given) else uuid.uuid4().hex
        scope["tandem.request_id"] = self.request_id
        self._waits_for_leave = headers.get(b"expect", b"").lower() == b"100-continue"
        self._received = 0
        self._containers = 0
        self._counted = 0
        self.status = 0
        self._refused = False

    async def run(self, app: ASGIApp) -> None:
        begin = time.perf_counter()
        try:
            refusal = self._refusal()
            if refusal is None:
                await app(self.scope, self.receive, self.send)
            else:
                if not self._waits_for_leave:
                    await self._discard()
                await self._refuse(refusal)
        except _NotTakenError:
            log.info("the client does not take its answer", extra={"request_id": self.request_id})
        except Exception:
            log.exception("request failed", extra={"request_id": self.request_id})
            await self._refuse(failed("The server failed to handle this request."))
        finally:
            self._rules.bodies.give_back(self._counted)
            self._log(time.perf_counter() - begin)

    def _log(self, seconds: float) -> None:
        facts = {
            "request_id": self.request_id,
            "method": self.scope["method"],
            "path": self.scope["path"][:_LOGGED_PATH],
            "status": self.status,
            "seconds": round(seconds, 4),
        }
        trace = _TRACE.match(self._headers.get(b"traceparent", b""))
        if trace is not None:
            facts["trace_id"] = trace[1].decode()
        log.log(logging.DEBUG if self.scope["path"] in _QUIET else logging.INFO, "request", extra=facts)

    def _refusal(self) -> ApiError | None:
        """Why the request is not even read, if so."""
        allows = self._rules.allows
        path = self.scope["path"]
        # Probes and gatherers of metrics have no key; hand-offs between workers have their own.
        free = path in _QUIET or path.startswith(_HANDOFFS)
        if allows is not None and not free and not allows(self.scope["headers"]):
            return wrong_key(given=bool(self._headers.get(b"authorization")))
        if b"content-length" in self._headers and b"transfer-encoding" in self._headers:
            # Somebody on the way may have understood the other one.
            text = "The request has both Content-Length and Transfer-Encoding. Send one of them."
            return ApiError(400, text, code="invalid_request")
        declared = self._headers.get(b"content-length", b"0")
        return self._room_for(int(declared)) if declared.isdigit() else None

    async def receive(self) -> Message:
        if self._body_is_there:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._body_until):
                message = await self._receive()
        except TimeoutError:
            text = f"The body did not arrive within {self._rules.patience:g} s."
            await self._refuse(ApiError(408, text, code="body_timeout"))
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            refusal = self._took(message)
            if refusal is not None:
                if not self._body_is_there:
                    await self._discard()
                await self._refuse(refusal)
                return {"type": "http.disconnect"}
        return message

    def _took(self, message: Message) -> ApiError | None:
        """Counts a piece of the body. Returns why no more is read, or nothing made of it, if so."""
        piece = message.get("body", b"")
        self._received += len(piece)
        self._containers += piece.count(b"{") + piece.count(b"[")
        self._body_is_there = not message.get("more_body", False)
        if self._containers > MOST_CONTAINERS:
            text = f"The body has more than {MOST_CONTAINERS} opening brackets and braces."
            return ApiError(413, text, code="body_too_large")
        if self._body_is_there and self.scope["path"] in _GENERATIONS and (full := self._rules.full()) is not None:
            return full
        return self._room_for(self._received)

    def _room_for(self, nbytes: int) -> ApiError | None:
        """Takes room for a body of this size, as it is declared or, without that, as it comes; or why there is none."""
        if nbytes > self._rules.max_body:
            return body_too_large(self._rules.max_body)
        more = max(0, nbytes - SMALL_BODY_BYTES - self._counted)
        if not self._rules.bodies.take(more):
            return too_many_bodies()
        self._counted += more
        return None

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        try:
            async with asyncio.timeout(self._rules.patience):
                await self._send(message)
        except TimeoutError:
            raise _NotTakenError from None

    async def _discard(self) -> None:
        """Reads on for a moment without keeping anything: a client that is still sending would lose the answer."""
        discarded = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while discarded <= 2 * self._rules.max_body:
                    message = await self._receive()
                    discarded += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return

    async def _refuse(self, error: ApiError) -> None:
        if self._refused or self.status:
            return
        body = json.dumps(error_body(error, self.request_id)).encode()
        headers: list[Any] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
        ]
        with contextlib.suppress(_NotTakenError):
            await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        self._refused = True
