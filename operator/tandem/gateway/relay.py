"""Passes a worker's answer on to the client, chunk by chunk, and never lets a stream end in silence."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Send

from tandem.gateway import errors
from tandem.gateway.events import is_finished
from tandem.gateway.headers import to_client
from tandem.gateway.upstream import StreamAnswer, StreamBroken, WholeAnswer

RawHeaders = list[tuple[bytes, bytes]]


async def send_whole(send: Send, *, status: int, headers: RawHeaders, content: bytes) -> None:
    """One complete answer."""
    sized = [*headers, (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": content})


def passed_on(answer: WholeAnswer, request_id: str) -> tuple[RawHeaders, bytes]:
    """Headers and body of a worker's whole answer; an error that is not JSON is put into the form of ours."""
    headers = to_client(answer.headers)
    kind = answer.headers.get("content-type", "")
    if answer.status < 400 or "json" in kind:
        return headers, answer.content
    message = answer.content.decode(errors="replace").strip()[:500] or f"the worker answered {answer.status}"
    error = errors.HttpError(answer.status, message, kind="upstream_error", code="worker_error")
    kept = [(name, value) for name, value in headers if name not in {b"content-type", b"content-encoding"}]
    return [*kept, (b"content-type", b"application/json")], error.body(request_id)


class StreamRelay:
    """One stream to one client. `started` tells whether the client has seen its first byte."""

    def __init__(self, send: Send, *, request_id: str, ends_with_done: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._ends_with_done = ends_with_done
        self.started = False

    async def run(self, answer: StreamAnswer, headers: RawHeaders, *, on_first: Callable[[], None]) -> bool:
        """Sends all of it; False when it broke off, of which the client was told by an error event."""
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        self.started = True
        last = answer.first
        await self._pass(last)
        on_first()
        try:
            async for last in answer.rest:
                await self._pass(last)
        except StreamBroken as broken:
            await self.fail(errors.broken_stream(str(broken)))
            return False
        if self._ends_with_done and not is_finished(last):
            await self.fail(errors.broken_stream("the worker's stream ended without [DONE]"))
            return False
        await self._send({"type": "http.response.body", "body": b""})
        return True

    async def fail(self, error: errors.HttpError) -> None:
        """Ends a stream that has begun with an error event."""
        await self._send({"type": "http.response.body", "body": error.event(self._request_id)})

    async def _pass(self, events: bytes) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": True})
