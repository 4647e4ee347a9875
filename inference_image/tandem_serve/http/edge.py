"""The outermost layer: request ids, the limits of bodies and of clients that stand still, one log line per request."""

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
    """ASGI middleware. A body above `max_body` bytes is answered with 413 without being read to its end, one that takes
    longer than `patience` seconds with 408; a client that takes nothing of its answer for that long is left.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, patience: float, on_answer: Callable[[str, int], None]) -> None:
        self._app = app
        self._max_body = max_body
        self._patience = patience
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, max_body=self._max_body, patience=self._patience)
        try:
            await exchange.run(self._app)
        finally:
            self._on_answer(getattr(scope.get("route"), "path", "other"), exchange.status)


class _NotTakenError(Exception):
    """The client does not take its answer."""


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, max_body: int, patience: float) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._max_body = max_body
        self._patience = patience
        self._body_until = asyncio.get_running_loop().time() + patience
        self._body_is_there = False
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
                await self._refuse(self._too_large())
            else:
                await app(self.scope, self.receive, self.send)
        except _NotTakenError:
            log.info("the client does not take its answer", extra={"request_id": self.request_id})
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
        if self._body_is_there:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._body_until):
                message = await self._receive()
        except TimeoutError:
            text = f"The body did not arrive within {self._patience:g} s."
            await self._refuse(ApiError(408, text, code="body_timeout"))
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._body_is_there = not message.get("more_body", False)
            self._received += len(message.get("body", b""))
            if self._received > self._max_body:
                await self._discard()
                await self._refuse(self._too_large())
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        try:
            async with asyncio.timeout(self._patience):
                await self._send(message)
        except TimeoutError:
            raise _NotTakenError from None

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

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._max_body} bytes.", code="body_too_large")

    async def _refuse(self, error: ApiError) -> None:
        if self._refused or self.status:
            return
        body = json.dumps(error_body(error, self.request_id)).encode()
        headers: list[Any] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        self._refused = True
