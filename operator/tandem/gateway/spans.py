"""Spans of requests for OpenTelemetry: one per request, one per leg to a worker. Never what was asked or answered.

Only where the standard variables name a collector; elsewhere nothing of OpenTelemetry's SDK is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext

from tandem.gateway.call import Record
from tandem.gateway.fleet import Endpoint
from tandem.gateway.headers import RawHeaders

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

log = logging.getLogger(__name__)


class LegSpan:
    """The span of a leg; this one is none."""

    def end(self, outcome: str, *, status: int | None = None) -> None:
        """The leg is over; further ends change nothing."""


class Spans:
    """Makes spans; this one makes none."""

    def request(self, headers: RawHeaders, record: Record) -> AbstractContextManager[None]:  # noqa: ARG002
        """A request from its beginning to its end, below the span that its headers name; `record` tells of it."""
        return nullcontext()

    def leg(self, endpoint: Endpoint, headers: MutableMapping[str, str]) -> LegSpan:  # noqa: ARG002
        """A leg of the request in whose context this is called; the headers for the worker will name it."""
        return LegSpan()

    def close(self) -> None:
        """Sends what is left, within a few seconds."""


def from_environment(environment: Mapping[str, str], *, deployment: str) -> Spans:
    """Spans where the environment names a collector; what keeps them from it is logged once."""
    named = next((name for name in ENDPOINTS if environment.get(name)), None)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if named is None or off:
        return Spans()
    if not environment[named].startswith(("http://", "https://")):
        log.warning("no spans are sent: %s is not an address like http://collector:4318", named)
        return Spans()
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), HTTP)
    if protocol != HTTP:
        log.warning("no spans are sent: the protocol is to be %s, and only %s is spoken here", protocol, HTTP)
        return Spans()
    try:
        from tandem.gateway.otel import OtelSpans
    except ImportError as error:
        extra = "pip install 'tandem-operator[otel]'"
        log.warning("no spans are sent: %s is set, but OpenTelemetry is missing (%s): %s", named, error.name, extra)
        return Spans()
    return OtelSpans.exporting(deployment)
