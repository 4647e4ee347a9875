"""`/kv/{id}`: the prefill worker's side of a hand-off. Whoever asks must show the token of the offer.

GET sends the KV from token `first`, as it is computed; POST to `/kv/{id}/lease` renews the lease, DELETE ends it, and
the work on it; with `?prompts=all` those of all prompts of the request.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tandem_serve.engine.transfer.identity import FRAME_BYTES, NEVER, NOT_YET, TOKEN_HEADER
from tandem_serve.engine.transfer.lease import Lease
from tandem_serve.http.errors import ApiError, invalid
from tandem_serve.service import Service

LONGEST_SILENCE_SECONDS = 1.0


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/kv/{kv_id}")
    async def fetch(request: Request, kv_id: str, first: int = 0) -> Response:
        token = _checked(service, request, kv_id)
        lease = service.loaded.leases.open(kv_id)
        if lease is None:
            raise _gone()
        if not 0 <= first < len(lease.prompt) - 1:
            service.loaded.leases.close(lease)
            raise invalid(f"first: token {first} is not before the last one of this prompt", param="first")
        return _KvResponse(service, lease, first, token)

    @routes.post("/kv/{kv_id}/lease")
    async def renew(request: Request, kv_id: str) -> Response:
        _checked(service, request, kv_id)
        if not service.loaded.leases.renew(kv_id):
            raise _gone()
        return Response(status_code=204)

    @routes.delete("/kv/{kv_id}")
    async def free(request: Request, kv_id: str, prompts: str = "") -> Response:
        _checked(service, request, kv_id)
        leases = service.loaded.leases
        if not (leases.delete_offer(kv_id) if prompts == "all" else leases.delete(kv_id)):
            raise _gone()
        return Response(status_code=204)

    return routes


def _checked(service: Service, request: Request, kv_id: str) -> str:
    """The token that was shown. Raises a 403 when it is not that of the offer, whether or not there is one."""
    shown = request.headers.get(TOKEN_HEADER, "")
    if not service.loaded.kv_key.fits(kv_id, shown):
        service.metrics.kv_failed("forbidden")
        raise ApiError(403, f"{TOKEN_HEADER}: this is not the token of this KV.", code="kv_token")
    return shown


def _gone() -> ApiError:
    return ApiError(404, "This KV is not kept here (any more).", code="kv_gone")


class _KvResponse(Response):
    """Sends segment by segment while a thread prepares the next; the lease stays open until the end.

    While a segment is not computed yet it says so now and then: silence means a broken network.
    """

    media_type = "application/octet-stream"

    def __init__(self, service: Service, lease: Lease, first: int, token: str) -> None:
        self._service = service
        self._lease = lease
        self._kv = service.loaded.send_kv(lease, first, token)
        self._silence = min(LONGEST_SILENCE_SECONDS, service.settings.pull_stall_seconds / 5)
        super().__init__(None)
        if lease.has(len(lease.prompt) - 1):
            self.headers["content-length"] = str(self._kv.size)
        else:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """See the ASGI specification."""
        gone = asyncio.ensure_future(_disconnected(receive))
        sent = False
        try:
            async with asyncio.timeout(self._service.settings.pull_timeout) as limit:
                sent = await self._send_all(send, gone, limit)
        except TimeoutError:
            pass
        finally:
            gone.cancel()
            self._service.loaded.leases.close(self._lease)
            if not sent:  # the answer stays incomplete, which closes the connection
                self._service.metrics.kv_failed("not_taken")

    async def _send_all(self, send: Send, gone: asyncio.Future[None], limit: asyncio.Timeout) -> bool:
        """Whether everything was handed to a receiver that was still there."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._kv.header, "more_body": True})
        upcoming: asyncio.Future[memoryview] | None = None
        try:
            for number, (_, tokens) in enumerate(self._kv.segments):
                if upcoming is None and not await self._until_computed(number, send, gone, limit):
                    if not gone.done():
                        await send({"type": "http.response.body", "body": NEVER})
                    return not gone.done()
                frame = await asyncio.shield(upcoming := upcoming or self._prepare(number))
                upcoming = self._prepare(number + 1) if self._is_computed(number + 1) else None
                if gone.done():
                    return False
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                self._service.metrics.kv_moved("sent", tokens=tokens, nbytes=len(frame) - FRAME_BYTES)
        finally:
            if upcoming is not None:
                await asyncio.wait([upcoming])  # it reads the memory of the lease
        await send({"type": "http.response.body", "body": b""})
        return True

    def _is_computed(self, number: int) -> bool:
        """Whether there is such a segment, and its KV."""
        return number < len(self._kv.segments) and self._lease.has(sum(self._kv.segments[number]))

    def _prepare(self, number: int) -> asyncio.Future[memoryview]:
        return asyncio.ensure_future(asyncio.to_thread(self._kv.frame, number))

    async def _until_computed(
        self, number: int, send: Send, gone: asyncio.Future[None], limit: asyncio.Timeout
    ) -> bool:
        """Waits, which does not count as the receiver's time; False when it never will be, or nobody waits for it."""
        clock, seconds = asyncio.get_running_loop().time, self._service.settings.pull_timeout
        while not (is_computed := self._is_computed(number)) and not self._lease.lost and not gone.done():
            limit.reschedule(clock() + self._silence + seconds)
            if not await self._lease.changed(self._silence):
                await send({"type": "http.response.body", "body": NOT_YET, "more_body": True})
            limit.reschedule(clock() + seconds)
        return is_computed


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
