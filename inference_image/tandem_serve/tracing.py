"""Spans of OpenTelemetry where the environment asks for them, else none."""

from __future__ import annotations

from collections.abc import Mapping

from tandem_edge.tracing import can_send
from tandem_serve.spans import Spans


def from_environment(environment: Mapping[str, str], *, model: str, role: str) -> Spans:
    """Spans where the environment names a collector that they can be sent to; why they cannot is logged."""
    if not can_send(environment):
        return Spans()
    from tandem_serve.otel import OtelSpans

    return OtelSpans.exporting(model=model, role=role)
