"""The FastAPI application: all routes behind the edge."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp

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
    for module in (native, completions, chat, models, kv):
        app.include_router(module.router(service))
    settings = service.settings
    rules = EdgeRules(
        max_body=settings.max_body_bytes,
        patience=settings.client_seconds,
        bodies=BodyMemory(LARGE_BODIES * settings.max_body_bytes),
        full=service.full,
        allows=None if service.keys is None else service.keys.allows,
    )
    return Edge(app, rules, on_answer=service.metrics.answered, spans=service.spans)
