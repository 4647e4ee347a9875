"""Spans through OpenTelemetry's SDK, sent by OTLP over HTTP to where the standard variables say."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem.gateway.call import Record
from tandem.gateway.fleet import Endpoint
from tandem.gateway.headers import RawHeaders
from tandem.gateway.spans import LegSpan, Spans
from tandem_edge import otel

NAME = "tandem-router"
_BROKEN = "stream_broken"


class OtelSpans(Spans):
    """Makes spans of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tandem.gateway")
        self._context = TraceContextTextMapPropagator()

    @classmethod
    def exporting(cls, deployment: str) -> OtelSpans:
        """Sends them, in batches and in a thread of its own."""
        return cls(otel.exporting(NAME, {"tandem.deployment": deployment}))

    @contextmanager
    def request(self, headers: RawHeaders, record: Record) -> Iterator[None]:
        """See `Spans`."""
        above = self._context.extract(otel.carrier(headers))
        span = self._tracer.start_span(f"{record.method} {record.route}", context=above, kind=SpanKind.SERVER)
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            finally:
                _describe(span, record)

    def leg(self, endpoint: Endpoint, headers: MutableMapping[str, str]) -> LegSpan:
        """See `Spans`."""
        attributes: dict[str, str | int] = {
            "server.address": endpoint.address,
            "server.port": endpoint.port,
            "tandem.worker": endpoint.name,
            "tandem.role": str(endpoint.role),
            "tandem.revision": endpoint.revision,
        }
        span = self._tracer.start_span(str(endpoint.role), kind=SpanKind.CLIENT, attributes=attributes)
        self._context.inject(headers, set_span_in_context(span))
        return _OtelLeg(span)

    def close(self) -> None:
        """See `Spans`."""
        otel.close(self._provider)


class _OtelLeg(LegSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, outcome: str, *, status: int | None = None) -> None:
        if not self._span.is_recording():
            return
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if outcome != "ok":
            otel.fail(self._span, outcome)
        self._span.end()


def _describe(span: Span, record: Record) -> None:
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "tandem.request_id": record.request_id,
            "tandem.outcome": record.outcome,
            "tandem.attempts": len(record.tries),
        }
    )
    if record.route in otel.OPERATIONS:
        span.set_attribute("gen_ai.operation.name", otel.OPERATIONS[record.route])
    if record.local_prefill:
        span.set_attribute("tandem.local_prefill", record.local_prefill)
    if record.first_byte is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", record.first_byte - record.started)
    if record.status >= 500 or record.outcome == _BROKEN:
        otel.fail(span, record.outcome)
