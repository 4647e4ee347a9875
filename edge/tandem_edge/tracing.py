"""Whether spans can be sent to where OpenTelemetry's standard variables say.

Nothing of OpenTelemetry's SDK is imported before the environment names a collector.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

log = logging.getLogger(__name__)


def can_send(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a collector that spans can be sent to; what keeps them from it is logged once."""
    named = next((name for name in ENDPOINTS if environment.get(name)), None)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if named is None or off:
        return False
    if not environment[named].startswith(("http://", "https://")):
        log.warning("no spans are sent: %s is not an address like http://collector:4318", named)
        return False
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), HTTP)
    if protocol != HTTP:
        log.warning("no spans are sent: the protocol is to be %s, and only %s is spoken here", protocol, HTTP)
        return False
    try:
        import tandem_edge.otel  # noqa: F401
    except ImportError as error:
        extra = "install this project with its extra otel"
        log.warning("no spans are sent: %s is set, but OpenTelemetry is missing (%s): %s", named, error.name, extra)
        return False
    return True
