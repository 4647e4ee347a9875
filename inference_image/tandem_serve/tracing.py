"""Which spans the environment asks for: those of OpenTelemetry where it names a collector, else none.

Nothing of OpenTelemetry's SDK is imported before that is known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tandem_serve.spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

log = logging.getLogger(__name__)


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
            "no spans are sent: OpenTelemetry is missing: install this project with its extra otel",
            extra={"variable": named, "package": error.name},
        )
        return Spans()
    return OtelSpans.exporting(model=model, role=role)
