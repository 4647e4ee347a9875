"""Spans of OpenTelemetry where the environment asks for them, else none."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.gateway.spans import Spans
from tandem_edge.tracing import can_send


def from_environment(environment: Mapping[str, str], *, deployment: str) -> Spans:
    """Spans where the environment names a collector that they can be sent to; why they cannot is logged."""
    if not can_send(environment):
        return Spans()
    from tandem.gateway.otel import OtelSpans

    return OtelSpans.exporting(deployment)
