"""The router as a FastAPI application: its parts put together, its routes, its probes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from tandem.api.problems import refuse
from tandem.gateway import errors, headers
from tandem.gateway.attempts import Attempts
from tandem.gateway.audit import Audit
from tandem.gateway.body import Room
from tandem.gateway.call import Kind
from tandem.gateway.fleet import FleetView
from tandem.gateway.legs import Legs
from tandem.gateway.lifecycle import Lifecycle, Phase
from tandem.gateway.loading import LoadingBoard
from tandem.gateway.metrics import Metrics
from tandem.gateway.proxy import Proxy, Services
from tandem.gateway.settings import RouterSettings
from tandem.gateway.spans import Spans
from tandem.gateway.targets import Targets
from tandem.gateway.upstream import Upstream
from tandem_edge.keys import ApiKeys, UnusableKeys

log = logging.getLogger(__name__)

# (path, methods, kind, whether its streams end with [DONE])
ROUTES: tuple[tuple[str, list[str], Kind, bool], ...] = (
    ("/v1/completions", ["POST"], Kind.PAIRED, True),
    ("/v1/chat/completions", ["POST"], Kind.PAIRED, True),
    ("/generate", ["POST"], Kind.ALONE, False),
    ("/v1/models", ["GET"], Kind.ANY, False),
    ("/v1/models/{model:path}", ["GET"], Kind.ANY, False),
    ("/model-info", ["GET"], Kind.ANY, False),
    ("/tokenize", ["POST"], Kind.ANY, False),
    ("/detokenize", ["POST"], Kind.ANY, False),
    ("/tokenizer_info", ["GET"], Kind.ANY, False),
)


class Source(Protocol):
    """Where the worker list comes from."""

    async def run(self) -> None:
        """Follows it until cancelled, through every failure."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What the router takes from outside itself, so that tests can give it."""

    audit: Audit
    source: Callable[[FleetView, Callable[[], None]], Source]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    spans: Spans = field(default_factory=Spans)
    draw: Callable[[], float] = field(default_factory=lambda: random.Random().random)  # noqa: S311 - spreads load


def create_app(settings: RouterSettings, *, lifecycle: Lifecycle, world: World) -> FastAPI:
    """The router; `world.source` is given the view to publish to and a callback for failed reads.

    Raises `Refused` for a file of API keys that cannot be used.
    """
    view = FleetView()
    keys = _api_keys(settings, world.clock)
    targets = Targets(view, policy=settings.policy, clock=world.clock, draw=world.draw)
    metrics = Metrics(view, targets)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        upstream = Upstream(
            connect_seconds=settings.connect_seconds,
            idle_seconds=settings.idle_seconds,
            max_answer_bytes=settings.max_answer_bytes,
        )
        legs = Legs(
            settings=settings, targets=targets, upstream=upstream, metrics=metrics, spans=world.spans,
            clock=world.clock, draw=world.draw,
        )  # fmt: skip
        attempts = Attempts(
            settings=settings, view=view, targets=targets, legs=legs, metrics=metrics,
            clock=world.clock, sleep=world.sleep, draw=world.draw,
        )  # fmt: skip
        room = Room(settings.max_held_bytes, retry_after=settings.retry_after_seconds)
        services = Services(
            settings, attempts, lifecycle, room, metrics, world.audit, world.clock, keys=keys, spans=world.spans
        )
        for path, methods, kind, done_marker in ROUTES:
            proxy = Proxy(services, route=path, kind=kind, done_marker=done_marker)
            app.router.routes.append(Route(path, proxy, methods=methods))
        board = LoadingBoard(view, world.clock)
        app.router.routes.append(Route("/loading", _loading_route(board), methods=["GET"]))
        following = asyncio.create_task(world.source(view, metrics.list_failed).run())
        following.add_done_callback(lambda ended: _report_end(ended, lifecycle))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait((following,))
            await legs.close()
            await upstream.close()
            await board.close()

    app = FastAPI(
        title="Tandem router",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # Nothing about requests leaves this process but what it logs, counts and (see `spans`) sends itself.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_probes(app, lifecycle=lifecycle, view=view, metrics=metrics)
    _add_error_forms(app)
    return app


def _api_keys(settings: RouterSettings, clock: Callable[[], float]) -> ApiKeys | None:
    if settings.api_key_file is None:
        return None
    try:
        return ApiKeys(settings.api_key_file, clock=clock)
    except UnusableKeys as error:
        fix = "Give a readable file with one key per line."
        raise refuse("--api-key-file", error.place, error.reason, fix) from None


def _loading_route(board: LoadingBoard) -> Callable[[Request], Awaitable[Response]]:
    async def loading(_request: Request) -> Response:
        return Response(await board.document(), media_type="application/json")

    return loading


def _add_probes(app: FastAPI, *, lifecycle: Lifecycle, view: FleetView, metrics: Metrics) -> None:
    async def livez(_request: Request) -> Response:
        if lifecycle.broken:
            return Response(f"{lifecycle.broken}\n", status_code=503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    async def readyz(_request: Request) -> Response:
        """Ready means: send requests here. Whether workers are ready is not this probe's business."""
        if lifecycle.phase is not Phase.SERVING:
            return Response("draining\n", status_code=503, media_type="text/plain")
        if not view.synced:
            return Response(f"not synced: {view.trouble}\n", status_code=503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    async def scrape(_request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, endpoint in (("/livez", livez), ("/readyz", readyz), ("/metrics", scrape)):
        app.router.routes.append(Route(path, endpoint, methods=["GET"]))


def _add_error_forms(app: FastAPI) -> None:
    async def unknown_route(request: Request, raised: Exception) -> Response:
        status = raised.status_code if isinstance(raised, HTTPException) else 500
        extra = dict(raised.headers or {}) if isinstance(raised, HTTPException) else None
        error = errors.unknown_route(status, method=request.method, path=request.url.path, headers=extra)
        return _response(request, error)

    async def failed(request: Request, _raised: Exception) -> Response:
        return _response(request, errors.internal())

    app.add_exception_handler(HTTPException, unknown_route)
    app.add_exception_handler(Exception, failed)


def _response(request: Request, error: errors.HttpError) -> Response:
    request_id = headers.request_id(request.headers.raw)
    extra = {**error.headers, "x-request-id": request_id}
    return Response(error.body(request_id), status_code=error.status, headers=extra, media_type="application/json")


def _report_end(following: asyncio.Task[None], lifecycle: Lifecycle) -> None:
    if not following.cancelled():
        lifecycle.broken = "nothing follows the worker list any more"
        log.error("following the worker list ended by a defect", exc_info=following.exception())
