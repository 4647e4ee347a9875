"""A real router on a real socket, with an audit list instead of a log."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn

from tandem.gateway.app import World, create_app
from tandem.gateway.audit import JsonAudit
from tandem.gateway.fleet import Fleet, FleetView, Role
from tandem.gateway.lifecycle import Lifecycle
from tandem.gateway.server import bind, http_config, serve
from tandem.gateway.settings import RouterSettings
from tests.unit.gateway.workers import Caches, Worker


class GivenSource:
    """Workers as the test says."""

    def __init__(self, view: FleetView, fleet: Fleet | None, defect: Exception | None) -> None:
        self._defect = defect
        if fleet is not None:
            view.publish(fleet)

    async def run(self) -> None:
        """Nothing more will come from here, unless it is a defect."""
        if self._defect is not None:
            raise self._defect
        await asyncio.Event().wait()


@dataclass
class Router:
    """A running router and its surroundings."""

    url: str
    view: FleetView
    lifecycle: Lifecycle
    signals: asyncio.Queue[signal.Signals]
    serving: asyncio.Task[None] | None
    client: aiohttp.ClientSession
    audit: list[dict[str, Any]]
    noted: asyncio.Event
    pauses: list[float]
    workers: list[Worker] = field(default_factory=list)

    def publish(self, *workers: Worker) -> None:
        """These workers, all ready, are the fleet from now on."""
        self.view.publish(Fleet.of(worker.endpoint() for worker in workers))

    async def post(self, path: str, body: Any, **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """Posts JSON (or raw bytes); the answer and its parsed body."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(self.url + path, data=content, **options) as response:
            raw = await response.read()
        return response, json.loads(raw) if "json" in response.content_type else raw

    async def complete(self, prompt: str, **fields: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """A completion."""
        return await self.post("/v1/completions", {"model": "m", "prompt": prompt, **fields})

    async def audited(self, count: int = 1) -> list[dict[str, Any]]:
        """The audit lines, when there are at least `count`: they come after the answers."""
        while len(self.audit) < count:
            self.noted.clear()
            await asyncio.wait_for(self.noted.wait(), 10)
        return self.audit

    async def metric(self, sample: str) -> float:
        """The value of one line of /metrics, 0 when it is not there."""
        async with self.client.get(self.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)


StartRouter = Callable[..., Any]


@pytest.fixture
async def start_router() -> AsyncIterator[StartRouter]:
    """Starts routers: `await start_router(workers…, **settings)`; all are stopped after the test.

    With `as_process` one runs as in its own process, to be stopped by `Router.signals`.
    """

    async def start(
        *workers: Worker, synced: bool = True, as_process: bool = False, defect: Exception | None = None, **options: Any
    ) -> Router:
        mode = "agg" if any(worker.role is Role.AGG for worker in workers) else "disagg"
        defaults = {"drain_seconds": 0.0, "grace_seconds": 0.5, "mode": mode, "backend": "torch"}
        given = {**defaults, **options}
        settings = RouterSettings(deployment="d", served_model_name="m", namespace="ns", **given)
        audit: list[dict[str, Any]] = []
        noted = asyncio.Event()
        pauses: list[float] = []
        views: list[FleetView] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0)

        def emit(line: str) -> None:
            audit.append(json.loads(line))
            noted.set()

        def source(view: FleetView, _on_failure: Callable[[], None]) -> GivenSource:
            views.append(view)
            return GivenSource(view, Fleet.of(worker.endpoint() for worker in workers) if synced else None, defect)

        world = World(
            audit=JsonAudit(emit=emit, stamp=lambda: "now"),
            source=source,
            sleep=sleep,
        )
        lifecycle = Lifecycle()
        listener = bind("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        app = create_app(settings, lifecycle=lifecycle, world=world)
        server = uvicorn.Server(http_config(app, settings))
        serving = None
        if as_process:
            serving = asyncio.create_task(serve(app, settings, lifecycle=lifecycle, listener=listener, signals=signals))
        else:
            server.config.load()
            server.lifespan = server.config.lifespan_class(server.config)
            await server.startup(sockets=[listener])
            stop.push_async_callback(_stop, server)
        client = await stop.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        if defect is None:
            async with client.get(url + "/livez") as response:
                assert response.status == 200
        return Router(url, views[0], lifecycle, signals, serving, client, audit, noted, pauses, list(workers))

    async with AsyncExitStack() as stop:
        yield start


async def _stop(server: uvicorn.Server) -> None:
    """Ends a server at once: its own way takes two tenths of a second, which add up."""
    for listener in server.servers:
        listener.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
    await server.lifespan.shutdown()


@pytest.fixture
async def start_worker() -> AsyncIterator[Callable[..., Any]]:
    """Starts workers: `await start_worker("d-0", Role.DECODE)`; they share their KV caches within a test."""
    started: list[Worker] = []
    caches: Caches = {}

    async def start(name: str, role: Role, *, revision: str = "r1") -> Worker:
        worker = await Worker(name, role, revision=revision, caches=caches).start()
        started.append(worker)
        return worker

    yield start
    await asyncio.gather(*(worker.stop() for worker in started))


@dataclass
class Duo:
    """A router over two prefill and two decode workers of one revision."""

    router: Router
    prefills: list[Worker]
    decodes: list[Worker]
    caches: Caches

    @property
    def all(self) -> list[Worker]:
        """Every worker."""
        return self.prefills + self.decodes

    def seen(self, role: Role) -> list[Any]:
        """The requests that workers of a role saw."""
        return [seen for worker in self.all if worker.role is role for seen in worker.seen]


@pytest.fixture
async def start_duo(start_router: StartRouter, start_worker: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a `Duo`: `await start_duo(prefills=2, decodes=2, **settings)`."""

    async def start(*, prefills: int = 2, decodes: int = 2, **options: Any) -> Duo:
        p = [await start_worker(f"p-{index}", Role.PREFILL) for index in range(prefills)]
        d = [await start_worker(f"d-{index}", Role.DECODE) for index in range(decodes)]
        router = await start_router(*p, *d, **options)
        return Duo(router, p, d, (p + d)[0].caches)

    return start
