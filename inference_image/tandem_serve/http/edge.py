"""The outermost layer: request ids, the limit of bodies, one log line per request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tandem_serve.http.errors import ApiError, error_body

log = logging.getLogger(__name__)
_SAFE_ID = re.compile(rb"^[\x21-\x7e]{1,128}$")
_DISCARD_SECONDS = 1.0
_QUIET = frozenset({"/health", "/livez", "/metrics"})


class Edge:
    """ASGI middleware. A body above `max_body` bytes is answered with 413 without being read to its end."""

    def __init__(self, app: ASGIApp, *, max_body: int, on_answer: Callable[[str, int], None]) -> None:
        self._app = app
        self._max_body = max_body
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body)
        try:
            await exchange.run(self._app)
        finally:
            self._on_answer(getattr(scope.get("route"), "path", "other"), exchange.status)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._max_body = max_body
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _SAFE_ID.match(given) else uuid.uuid4().hex
        scope["tandem.request_id"] = self.request_id
        self._waits_for_leave = headers.get(b"expect", b"").lower() == b"100-continue"
        self._declared = headers.get(b"content-length", b"0")
        self._received = 0
        self.status = 0
        self._refused = False

    async def run(self, app: ASGIApp) -> None:
        begin = time.perf_counter()
        try:
            if self._declared.isdigit() and int(self._declared) > self._max_body:
                if not self._waits_for_leave:
                    await self._discard()
                await self._refuse()
            else:
                await app(self.scope, self.receive, self.send)
        finally:
            level = logging.DEBUG if self.scope["path"] in _QUIET else logging.INFO
            log.log(
                level,
                "request",
                extra={
                    "request_id": self.request_id,
                    "method": self.scope["method"],
                    "path": self.scope["path"],
                    "status": self.status,
                    "seconds": round(time.perf_counter() - begin, 4),
                },
            )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._max_body:
                await self._discard()
                await self._refuse()
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def _discard(self) -> None:
        """Reads on for a moment without keeping anything: a client that is still sending would lose the answer."""
        discarded = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while discarded <= 2 * self._max_body:
                    message = await self._receive()
                    discarded += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return

    async def _refuse(self) -> None:
        if self._refused or self.status:
            return
        error = ApiError(413, f"The body is larger than {self._max_body} bytes.", code="body_too_large")
        body = json.dumps(error_body(error, self.request_id)).encode()
        headers: list[Any] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 413, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        self._refused = True
