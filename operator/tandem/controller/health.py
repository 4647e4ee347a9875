"""Health of the operator process over HTTP: /livez, /readyz and /metrics."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp import web

from tandem.controller.metrics import Metrics

OLDEST_ITEM_SECONDS = 300.0


@dataclass
class Health:
    """What the probes say. `obstacle` is what the process waits for, `notice` what a person should know although all
    goes on; `oldest_item` reads how long work has been waiting."""

    state: str = "starting"
    obstacle: str = ""
    notice: str = ""
    oldest_item: Callable[[], float] = field(default=lambda: 0.0)

    @property
    def told(self) -> str:
        """The state, and what a person should know."""
        return f"{self.state}; {self.notice}" if self.notice else self.state

    def waits_for(self, obstacle: str) -> None:
        """Says what the process waits for; empty when for nothing."""
        self.obstacle = obstacle

    @property
    def not_alive(self) -> str:
        """Why only a restart would help; empty when all is well."""
        age = self.oldest_item()
        return f"work has been waiting for {age:.0f} s" if age > OLDEST_ITEM_SECONDS else ""

    @property
    def not_ready(self) -> str:
        """Why the process cannot do its part; a replica that stands by does its part."""
        if self.obstacle:
            return self.obstacle
        return "" if self.state in ("standing by", "leading") else self.state


@contextlib.asynccontextmanager
async def serving_health(health: Health, metrics: Metrics, *, host: str, port: int | None) -> AsyncIterator[int | None]:
    """Serves while the context lasts; yields the port."""
    if port is None:
        yield None
        return
    runner = web.AppRunner(_application(health, metrics), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _application(health: Health, metrics: Metrics) -> web.Application:
    async def live(_: web.Request) -> web.Response:
        return _answer(health.not_alive, "ok")

    async def ready(_: web.Request) -> web.Response:
        return _answer(health.not_ready, health.told)

    async def metric_text(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.router.add_get("/livez", live)
    application.router.add_get("/readyz", ready)
    application.router.add_get("/metrics", metric_text)
    return application


def _answer(problem: str, fine: str) -> web.Response:
    return web.Response(text=f"{problem or fine}\n", status=503 if problem else 200)
