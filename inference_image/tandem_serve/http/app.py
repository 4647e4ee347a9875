"""The FastAPI application: all routes behind the edge."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from tandem_serve.http import chat, completions, errors, kv, models, native
from tandem_serve.http.edge import Edge
from tandem_serve.service import Service


def create_app(service: Service) -> ASGIApp:
    """An ASGI application that answers for `service`; usable before the model is loaded."""
    app = FastAPI(title="tandem-serve", docs_url=None, redoc_url=None)
    errors.install(app)
    for module in (native, completions, chat, models, kv):
        app.include_router(module.router(service))
    settings = service.settings
    return Edge(
        app, max_body=settings.max_body_bytes, patience=settings.client_seconds, on_answer=service.metrics.answered
    )
