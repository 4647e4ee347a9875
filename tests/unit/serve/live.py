"""A whole server in the test's event loop: real HTTP on loopback, real engine thread, a model loaded before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from tandem_serve.backend import Core, Engine, Running, build_core, connect
from tandem_serve.cli import bind
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.thread import EngineThread
from tandem_serve.engine.types import Update
from tandem_serve.http.app import create_app
from tandem_serve.metrics import ServerMetrics
from tandem_serve.server import HttpServer, http_config
from tandem_serve.service import Service
from tandem_serve.settings import Settings


@dataclass
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The payloads of a stream; `[DONE]` as a string."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        return self.json["choices"][0]["text"]


@dataclass
class LiveServer:
    """A running server and a client for it."""

    service: Service
    running: Running
    core: Core
    port: int
    session: aiohttp.ClientSession

    @property
    def stats(self) -> Any:
        return self.running.backend.stats

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.request("POST", path, json=body, **options)

    async def complete(self, prompt: Any, **fields: Any) -> Answer:
        return await self.post("/v1/completions", {"prompt": prompt, "temperature": 0, **fields})

    async def metric(self, name: str) -> float:
        """The value of one series, or of the only one of this name; 0 when it does not exist."""
        for line in (await self.get("/metrics")).body.decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rpartition(" ")[2])
        return 0.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits for something another thread does; the limit only bounds a failure."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def live_server(
    settings: Settings,
    model: LoadedModel,
    *,
    clock: Callable[[], float] = time.monotonic,
    attach: bool = True,
) -> AsyncIterator[LiveServer]:
    """Serves `model`; with `attach` False the server stays in the state before the model is loaded."""
    loop = asyncio.get_running_loop()
    sock = bind(settings)
    settings = replace(settings, port=sock.getsockname()[1])
    service = Service(settings, ServerMetrics(), clock=clock)
    core = build_core(settings, model, clock=clock)
    live: list[Running] = []

    def deliver(updates: list[Update]) -> None:
        live[0].backend.client.deliver(updates)

    thread = EngineThread(core.engine, sink=lambda updates: loop.call_soon_threadsafe(deliver, updates), clock=clock)
    server = HttpServer(http_config(create_app(service)))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    async with aiohttp.ClientSession() as session:
        live.append(connect(Engine(core=core, thread=thread), service, session))
        thread.start()
        if attach:
            service.attach(live[0].backend)
        try:
            yield LiveServer(service, live[0], core, settings.port, session)
        finally:
            await live[0].puller.close()
            await session.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            for listener in server.servers:
                listener.close()
            await asyncio.to_thread(thread.stop)
