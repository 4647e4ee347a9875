"""Two live workers that hand KV over, and a network between them that a test can spoil."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tandem_serve.backend import build_core
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.transfer.identity import TOKEN_HEADER
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tests.unit.serve import tiny
from tests.unit.serve.live import Answer, LiveServer, eventually, live_server

TEXT = tiny.TEXT * 20
NEW = 8
"""New tokens of an answer."""
"""Several segments long."""
PATIENT = 60.0
"""Seconds that only a network which stands still may use up."""


class Clock:
    """Time that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def pair(
    model: LoadedModel,
    *,
    decoder: LoadedModel | None = None,
    clock: Callable[[], float] | None = None,
    prefill: dict[str, Any] | None = None,
    decode: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[LiveServer, LiveServer]]:
    """A prefill and a decode worker of one model (or of two); changes of their settings; `clock` is prefill's."""
    patient = {"pull_timeout": PATIENT, "pull_stall_seconds": PATIENT}
    timing = {} if clock is None else {"clock": clock}
    async with (
        live_server(
            tiny.settings(Path("x"), role="prefill", **patient | (prefill or {})), model, **timing
        ) as prefill_server,
        live_server(
            tiny.settings(Path("x"), role="decode", **patient | (decode or {})), decoder or model
        ) as decode_server,
    ):
        yield prefill_server, decode_server


async def offer(
    prefill: LiveServer, prompt: Any = TEXT, path: str = "/v1/completions", **fields: Any
) -> dict[str, Any]:
    """What the router does first."""
    body = {"prompt": prompt} if path == "/v1/completions" else {"messages": prompt}
    body |= {"temperature": 0, "max_tokens": 1, "stream": False, **fields}
    body["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False}
    answer = await prefill.post(path, body)
    assert answer.status == 200, answer.body
    params: dict[str, Any] = answer.json["kv_transfer_params"]
    return params


@contextlib.asynccontextmanager
async def early_offer(
    prefill: LiveServer, prompt: Any = TEXT, **fields: Any
) -> AsyncIterator[tuple[dict[str, Any], aiohttp.ClientResponse]]:
    """The offer that comes while prefill computes, and the rest of the answer; the router goes at the end."""
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 1, "stream": False, **fields}
    body["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False, "offer_early": True}
    async with prefill.session.post(f"http://127.0.0.1:{prefill.port}/v1/completions", json=body) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
        yield (
            json.loads((await answer.content.readuntil(b"\n\n")).removeprefix(b"data: "))["kv_transfer_params"],
            answer,
        )


async def ask_prefill(prefill: LiveServer, method: str, params: dict[str, Any], path: str = "") -> Answer:
    """What a decode worker asks of the prefill worker."""
    headers = {TOKEN_HEADER: params["remote_token"]}
    return await prefill.request(method, f"/kv/{params['remote_request_id']}{path}", headers=headers)


def alone(model: LoadedModel, prompt: str = TEXT, new_tokens: int = 20) -> str:
    """The text that one worker gives."""
    core = build_core(tiny.settings(Path("x")), model)
    sampling = SamplingParams(max_tokens=new_tokens, temperature=0)
    core.engine.add(SequenceRequest(seq_id=0, request_id="", prompt=core.codec.encode(prompt), sampling=sampling))
    text = ""
    while core.engine.scheduler.busy:
        text += "".join(update.text for update in core.engine.step()[0])
    return text


async def freed(*servers: LiveServer) -> None:
    """Waits until no KV memory is in use, and nothing is left to do."""
    for server in servers:
        await eventually(lambda server=server: server.stats.kv_used_tokens == 0)
        await eventually(lambda server=server: not len(server.running.puller))
        assert server.core.engine.scheduler.blocks.used == 0
        assert not len(server.running.backend.leases)


@dataclass
class Counters:
    """What a decode worker counted of its hand-offs."""

    transferred: float
    recomputed: dict[str, float]
    failures: dict[str, float]
    fallbacks: float


async def counters(decode: LiveServer) -> Counters:
    """Reads them."""
    recomputed, failures = {}, {}
    values = {}
    for line in (await decode.get("/metrics")).body.decode().splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#"):
            values[name] = float(value)
    for name, value in values.items():
        for family, into in (
            ("tandem_kv_recomputed_tokens_total", recomputed),
            ("tandem_kv_transfer_failures_total", failures),
        ):
            if name.startswith(f'{family}{{reason="'):
                into[name.split('"')[1]] = value
    return Counters(
        transferred=values['tandem_prompt_tokens_total{source="transferred"}'],
        recomputed=recomputed,
        failures=failures,
        fallbacks=values["tandem_local_prefill_fallbacks_total"],
    )


Spoil = Callable[[web.Request, web.StreamResponse, bytes], Awaitable[None]]


@contextlib.asynccontextmanager
async def network(prefill: LiveServer, spoil: Spoil) -> AsyncIterator[int]:
    """A proxy in front of a prefill worker: what a GET brings goes through `spoil`. Yields its port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {TOKEN_HEADER: request.headers.get(TOKEN_HEADER, "")}
        answer = await prefill.request(request.method, request.path_qs, headers=headers)
        if request.method != "GET" or answer.status != 200:
            return web.Response(status=answer.status)
        response = web.StreamResponse(headers={"Content-Length": str(len(answer.body))})
        await spoil(request, response, answer.body)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def altered(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """One bit in the middle is another."""
    changed = bytearray(body)
    changed[len(body) // 2] ^= 0x40
    await response.prepare(request)
    await response.write(bytes(changed))


async def cut(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """The connection breaks in the middle."""
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()


async def stalled(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """Nothing comes after the first half, until the receiver goes."""
    with contextlib.suppress(ConnectionError):  # a receiver in a hurry may be gone already
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await asyncio.Event().wait()


async def slow(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """Few bytes at a time."""
    await response.prepare(request)
    for start in range(0, len(body), 1500):
        await response.write(body[start : start + 1500])
        await asyncio.sleep(0)


async def longer(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """More than was asked for."""
    response.content_length = len(body) + 10_000_000
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(body + bytes(10_000_000))


async def resized(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """The first segment says that it is longer."""
    changed = bytearray(body)
    place = 8 + int.from_bytes(body[:8], "little")
    changed[place + 2] += 1
    await response.prepare(request)
    await response.write(bytes(changed))


async def shorter(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """Whole, but not all of it."""
    response.content_length = len(body) - 100
    await response.prepare(request)
    await response.write(body[:-100])


async def something_else(request: web.Request, response: web.StreamResponse, body: bytes) -> None:
    """Not even a hand-off."""
    await response.prepare(request)
    await response.write((b"<html>" * len(body))[: len(body)])


class Held:
    """A model runner that computes `steps` steps, and the next one only when it is let go."""

    def __init__(self, runner: Any, *, steps: int = 1) -> None:
        self._runner = runner
        self._left = steps
        self._free = threading.Event()
        self.waits = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, *arguments: Any) -> Any:
        if self._left == 0:
            self.waits = True
            self._free.wait()
        else:
            self._left -= 1
        return self._runner.forward(*arguments)

    def let_go(self) -> None:
        """From now on it computes without a stop."""
        self._free.set()


@contextlib.contextmanager
def held(model: LoadedModel, *, steps: int = 1) -> Iterator[tuple[LoadedModel, Held]]:
    """A model that stops after some steps; it goes on in the end."""
    runner = Held(model.runner, steps=steps)
    try:
        yield replace(model, runner=runner), runner  # type: ignore[arg-type]
    finally:
        runner.let_go()


class Relay:
    """A network that passes bytes on as they come, until it is cut or stands still."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._streams: set[asyncio.StreamWriter] = set()
        self._moves = asyncio.Event()
        self._moves.set()
        self.passed = 0
        """Bytes that came from the server."""

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    def stand_still(self) -> None:
        """Nothing passes any more."""
        self._moves.clear()

    def cut(self) -> None:
        """Every connection breaks, and new ones do at once."""
        self._to = 0
        for stream in self._streams:
            stream.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._streams.add(back)
        await asyncio.gather(self._pass(reader, back, counts=False), self._pass(there, writer, counts=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._moves.wait()
                self.passed += len(data) * counts
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def relay(server: LiveServer) -> AsyncIterator[tuple[int, Relay]]:
    """A `Relay` in front of a server, and its port."""
    made = Relay(server.port)
    listener = await made.start()
    try:
        yield listener.sockets[0].getsockname()[1], made
    finally:
        made.cut()
        listener.close()
