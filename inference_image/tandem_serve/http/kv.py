"""`GET /kv/{id}` and `DELETE /kv/{id}`: the prefill worker's side of a hand-off."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tandem_serve.engine.transfer.lease import Lease
from tandem_serve.http.errors import ApiError
from tandem_serve.service import Service

_PIECE = 1 << 18
_SMALL = 1 << 16


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/kv/{kv_id}")
    async def fetch(kv_id: str) -> Response:
        lease = service.loaded.leases.open(kv_id)
        if lease is None:
            raise ApiError(404, "This KV is not kept here (any more).", code="kv_gone")
        return _KvResponse(service, lease)

    @routes.delete("/kv/{kv_id}")
    async def free(kv_id: str) -> Response:
        if not service.loaded.leases.delete(kv_id):
            raise ApiError(404, "This KV is not kept here (any more).", code="kv_gone")
        return Response(status_code=204)

    return routes


class _KvResponse(Response):
    """Sends views of the KV memory piece by piece; the lease stays open until the end."""

    media_type = "application/octet-stream"

    def __init__(self, service: Service, lease: Lease) -> None:
        self._service = service
        self._lease = lease
        self._kv = service.loaded.encode_kv(lease)
        super().__init__(None)
        self._hasher = hashlib.sha256(self._kv.header)
        size = len(self._kv.header) + self._kv.data_bytes + self._hasher.digest_size
        self.headers["content-length"] = str(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """See the ASGI specification."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async with asyncio.timeout(self._service.settings.pull_timeout):
                sent = await self._send_all(send, gone)
        except TimeoutError:
            sent = False
        finally:
            gone.cancel()
            self._service.loaded.leases.close(self._lease)
        if sent:
            tokens = len(self._lease.prompt)
            self._service.metrics.kv_moved("sent", tokens=tokens, nbytes=self._kv.data_bytes)
        else:  # the answer stays incomplete, which closes the connection
            self._service.metrics.kv_failed("not_taken")

    async def _send_all(self, send: Send, gone: asyncio.Future[None]) -> bool:
        """Whether everything was handed to a receiver that was still there."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._kv.header, "more_body": True})
        for piece in _pieces(self._kv.planes):
            if gone.done():
                return False
            self._hasher.update(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": self._hasher.digest()})
        return True


def _pieces(planes: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    """Cuts long views without a copy; short ones are joined, because every piece costs a turn of the event loop."""
    small: list[memoryview] = []
    size = 0
    for plane in planes:
        if len(plane) < _SMALL:
            small.append(plane)
            size += len(plane)
            if size < _PIECE:
                continue
        if small:
            yield b"".join(small)
            small, size = [], 0
            if len(plane) < _SMALL:
                continue
        for start in range(0, len(plane), _PIECE):
            yield plane[start : start + _PIECE]
    if small:
        yield b"".join(small)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
