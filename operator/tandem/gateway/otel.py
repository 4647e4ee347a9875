"""Spans through OpenTelemetry's SDK, sent by OTLP over HTTP to where the standard variables say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem.gateway.call import Record
from tandem.gateway.fleet import Endpoint
from tandem.gateway.headers import RawHeaders
from tandem.gateway.spans import LegSpan, Spans

NAME = "tandem-router"
CLOSE_SECONDS = 5.0
_CONTEXT = (b"traceparent", b"tracestate")
_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/generate": "text_completion"}
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
        provider = TracerProvider(resource=_resource(deployment), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def request(self, headers: RawHeaders, record: Record) -> Iterator[None]:
        """See `Spans`."""
        carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CONTEXT}
        span = self._tracer.start_span(
            f"{record.method} {record.route}", context=self._context.extract(carrier), kind=SpanKind.SERVER
        )
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
        """See `Spans`. A collector that does not answer is not waited for any longer."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _OtelLeg(LegSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, outcome: str, *, status: int | None = None) -> None:
        if not self._span.is_recording():
            return
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if outcome != "ok":
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)
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
    if record.route in _OPERATIONS:
        span.set_attribute("gen_ai.operation.name", _OPERATIONS[record.route])
    if record.local_prefill:
        span.set_attribute("tandem.local_prefill", record.local_prefill)
    if record.first_byte is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", record.first_byte - record.started)
    if record.status >= 500 or record.outcome == _BROKEN:
        span.set_attribute("error.type", record.outcome)
        span.set_status(StatusCode.ERROR)


def _resource(deployment: str) -> Resource:
    """What the environment says of this process, and what it leaves open."""
    given = Resource.create()
    own = {"tandem.deployment": deployment}
    if str(given.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        own[SERVICE_NAME] = NAME
    if "service.instance.id" not in given.attributes:
        own["service.instance.id"] = socket.gethostname()
    return given.merge(Resource(own))
