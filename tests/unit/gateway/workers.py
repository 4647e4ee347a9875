"""Workers as the router sees them, on real sockets: they speak the protocol, and fail in the ways a test asks for.

A prefill worker keeps a "KV cache" (the prompt) under a fresh id. A decode worker answers with the text made from the
KV that the parameters name, and takes it away with that: parameters used twice, or of another prompt, give wrong text.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tandem.gateway.fleet import Endpoint, Role

Handler = Callable[["Worker", "Seen"], Awaitable[web.StreamResponse]]

# Every KV cache that some prefill worker keeps, by remote_request_id.
Caches = dict[str, str]


@dataclass
class Seen:
    """A request that reached a worker, and what became of it."""

    path: str
    headers: Mapping[str, str]
    body: Any
    request: web.Request
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the connection was closed before the answer was complete."""


class Worker:
    """One worker on a port of its own."""

    def __init__(self, name: str, role: Role, *, revision: str = "r1", caches: Caches | None = None) -> None:
        self.name = name
        self.role = role
        self.revision = revision
        self.caches = {} if caches is None else caches
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        self.handler: Handler | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> Worker:
        """Listens; again on the same port after a `stop`."""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Closes the listener and every connection, as a killed process would."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def saw(self, count: int = 1) -> None:
        """Returns when this many requests have come."""
        while len(self.seen) < count:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 10)

    def endpoint(self, *, ready: bool = True) -> Endpoint:
        """This worker as discovery would tell of it."""
        return Endpoint(self.name, "127.0.0.1", self.port, self.role, self.revision, ready)

    def script(self, *handlers: Handler) -> None:
        """The next requests get these handlers, one each; later ones the usual answer."""
        queue = list(handlers)

        async def scripted(worker: Worker, seen: Seen) -> web.StreamResponse:
            return await (queue.pop(0) if queue else serve)(worker, seen)

        self.handler = scripted

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        seen = Seen(request.raw_path, request.headers, json.loads(raw) if raw else None, request)
        self.seen.append(seen)
        self.arrived.set()
        try:
            return await (self.handler or serve)(self, seen)
        except (asyncio.CancelledError, ConnectionError):
            seen.cancelled.set()
            raise


def text_for(prompt: str) -> str:
    """The one right answer to a prompt."""
    return f"answer to <{prompt}>"


def prompt_of(body: dict[str, Any]) -> str:
    """The prompt as text, of a completion or a chat."""
    return body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])


async def serve(worker: Worker, seen: Seen) -> web.StreamResponse:
    """What a healthy worker of this role answers."""
    if seen.request.method == "DELETE":
        if seen.headers.get("X-Tandem-Kv-Token") == "70ca":
            worker.caches.pop(seen.path.rpartition("/")[2].removesuffix("?prompts=all"), None)
        return web.Response(status=204)
    if seen.body is None or "/completions" not in seen.path:
        return web.json_response({"worker": worker.name, "path": seen.path, "body": seen.body})
    if worker.role is Role.PREFILL:
        return prefill_answer(worker, seen)
    params = seen.body.get("kv_transfer_params")
    prompt = prompt_of(seen.body)
    text = text_for(prompt) if params is None else text_for(worker.caches.pop(params["remote_request_id"], "GARBAGE"))
    if seen.body.get("stream"):
        return await stream_answer(seen, text.split(" "))
    return web.json_response({"choices": [{"text": text}], "worker": worker.name, "local": params is None})


def prefill_answer(worker: Worker, seen: Seen, **changes: Any) -> web.Response:
    """One token and the hand-off; `changes` alter its parameters (`...` removes one)."""
    return web.json_response({"choices": [{"text": "x"}], "kv_transfer_params": keep(worker, seen, **changes)})


def keep(worker: Worker, seen: Seen, **changes: Any) -> dict[str, Any]:
    """Keeps the KV of a prompt; the parameters of its hand-off."""
    identity = uuid.uuid4().hex
    worker.caches[identity] = prompt_of(seen.body)
    params = {**handoff_params(worker, identity), **changes}
    return {key: value for key, value in params.items() if value is not ...}


def offers_early(until: asyncio.Event, *, breaks: bool = False, **changes: Any) -> Handler:
    """Offers at once, computes until the event, and then ends its answer, or `breaks` the connection."""

    async def handler(worker: Worker, seen: Seen) -> web.StreamResponse:
        async with stream(seen) as response:
            offer = json.dumps({"kv_transfer_params": keep(worker, seen, **changes)})
            await response.write(f": 16 tokens\n\ndata: {offer}\n\n: 32 tokens\n\n".encode())
            await until.wait()
            if breaks:
                seen.request.transport.abort()
            else:
                await response.write(DONE)
            return response

    return handler


def handoff_params(worker: Worker, identity: str) -> dict[str, Any]:
    """Parameters that satisfy torch and vLLM."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_engine_id": f"engine-{worker.name}",
        "remote_request_id": identity,
        "remote_host": "127.0.0.1",
        "remote_port": worker.port,
        "remote_num_tokens": 5,
        "remote_lease_seconds": 30,
        "remote_token": "70ca",
        "remote_block_ids": [[1, 2]],
        "tp_size": 1,
        "something_new": {"kept": ["as", "it", "is"]},
    }


def event(text: str) -> bytes:
    """One chunk of a completion stream."""
    return f"data: {json.dumps({'choices': [{'text': text}]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def text_of(raw: bytes) -> str | None:
    """The text of a completion stream; None when it is not one from beginning to end."""
    if not raw.endswith(DONE):
        return None
    events = [json.loads(part.removeprefix(b"data: ")) for part in raw.removesuffix(DONE).split(b"\n\n") if part]
    return None if any("error" in each for each in events) else "".join(each["choices"][0]["text"] for each in events)


@asynccontextmanager
async def stream(seen: Seen) -> AsyncIterator[web.StreamResponse]:
    """An open event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(seen.request)
    yield response


async def stream_answer(seen: Seen, words: list[str]) -> web.StreamResponse:
    """All words, one event each, and [DONE]."""
    async with stream(seen) as response:
        for word in words:
            await response.write(event(word))
        await response.write(DONE)
        return response


def answer(status: int, body: Any = None, *, headers: dict[str, str] | None = None) -> Handler:
    """Answers with a status."""
    value = {"error": {"message": f"status {status}", "code": status}} if body is None else body

    async def handler(worker: Worker, seen: Seen) -> web.StreamResponse:
        return web.json_response(value, status=status, headers=headers)

    return handler


async def cut(worker: Worker, seen: Seen) -> web.StreamResponse:
    """Closes the connection without an answer."""
    seen.request.transport.abort()
    return web.Response()


async def hang(worker: Worker, seen: Seen) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


def stream_then_cut(*chunks: bytes) -> Handler:
    """Sends some bytes of a stream and breaks the connection."""

    async def handler(worker: Worker, seen: Seen) -> web.StreamResponse:
        async with stream(seen) as response:
            for chunk in chunks:
                await response.write(chunk)
            await asyncio.sleep(0)
            seen.request.transport.abort()
            return response

    return handler


def stream_then_hang(*chunks: bytes) -> Handler:
    """Sends some bytes of a stream and falls silent."""

    async def handler(worker: Worker, seen: Seen) -> web.StreamResponse:
        async with stream(seen) as response:
            for chunk in chunks:
                await response.write(chunk)
            await asyncio.Event().wait()
            return response

    return handler
