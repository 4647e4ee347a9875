"""The FastAPI application: all routes behind the edge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Scope

from tandem_serve.http import chat, completions, errors, kv, models, native
from tandem_serve.http.edge import BodyMemory, Edge, EdgeRules
from tandem_serve.service import Service

LARGE_BODIES = 4
"""So many of the largest bodies may be in memory at once; read, each takes many times its size."""

NOTHING_OF_ITS_OWN = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
"""FastAPI would send words of errors, which may quote a prompt; see `tandem_serve.spans` for what is sent."""


def create_app(service: Service) -> ASGIApp:
    """An ASGI application that answers for `service`; usable before the model is loaded."""
    app = FastAPI(
        title="tandem-serve",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # the address that a redirect names is the client's word
        telemetry=NOTHING_OF_ITS_OWN,
    )
    errors.install(app)
    routers = [module.router(service) for module in (native, completions, chat, models, kv)]
    for router in routers:
        app.include_router(router)
    routes = [route for router in routers for route in router.routes]
    settings = service.settings
    rules = EdgeRules(
        max_body=settings.max_body_bytes,
        patience=settings.client_seconds,
        bodies=BodyMemory(LARGE_BODIES * settings.max_body_bytes),
        full=service.full,
        allows=None if service.keys is None else service.keys.allows,
    )
    return Edge(app, rules, route_of=partial(route_of, routes), on_answer=service.metrics.answered, spans=service.spans)


def route_of(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The pattern of the route that a request is for, also when it was refused before it got there; else `other`."""
    taken = scope.get("route")
    if taken is None:
        taken = next((route for route in routes if route.matches(scope)[0] is not Match.NONE), None)
    return str(getattr(taken, "path", "other"))
