"""Spans of requests for OpenTelemetry: one per request, and within it queue, hand-off or prefill, and decode of each
sequence. Never what was asked or answered.

Only where the standard variables name a collector; elsewhere nothing of OpenTelemetry's SDK is imported. The router
has the same in `tandem.gateway.spans`: neither package imports the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import aiohttp
from starlette.types import Scope

from tandem_serve.engine.types import SequenceRequest, Update

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
Answered = Callable[[str, int], None]
"""Takes the route and the status of an answer."""

log = logging.getLogger(__name__)


def _unnoted(_route: str, _status: int) -> None:
    """Nothing is noted."""


class Spans:
    """Makes spans; this one makes none. Belongs to the event loop."""

    def request(self, scope: Scope, *, request_id: str) -> AbstractContextManager[Answered]:  # noqa: ARG002
        """A request from its beginning to its end, below the span that its headers name."""
        return nullcontext(_unnoted)

    def begin(self, requests: Iterable[SequenceRequest]) -> None:
        """These sequences of the request in whose context this is called have just been queued."""

    def on_update(self, update: Update) -> None:
        """Takes the news of one sequence."""

    def of_pulls(self) -> list[aiohttp.TraceConfig]:
        """What names the hand-off's span in requests to prefill workers."""
        return []

    def close(self) -> None:
        """Sends what is left, within a few seconds."""


def from_environment(environment: Mapping[str, str], *, model: str, role: str) -> Spans:
    """Spans where the environment names a collector; what keeps them from it is logged once."""
    named = next((name for name in ENDPOINTS if environment.get(name)), None)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if named is None or off:
        return Spans()
    if not environment[named].startswith(("http://", "https://")):
        log.warning("no spans are sent: this is not an address like http://collector:4318", extra={"variable": named})
        return Spans()
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), HTTP)
    if protocol != HTTP:
        log.warning("no spans are sent: only http/protobuf is spoken here", extra={"protocol": protocol})
        return Spans()
    try:
        from tandem_serve.otel import OtelSpans
    except ImportError as error:
        log.warning(
            "no spans are sent: OpenTelemetry is missing: pip install 'tandem-operator[otel]'",
            extra={"variable": named, "package": error.name},
        )
        return Spans()
    return OtelSpans.exporting(model=model, role=role)
