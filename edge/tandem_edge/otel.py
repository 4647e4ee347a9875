"""How spans are made by OpenTelemetry's SDK and sent by OTLP over HTTP to where the standard variables say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import HOST_NAME, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, StatusCode

CLOSE_SECONDS = 5.0
OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/generate": "text_completion"}
"""What the conventions call that which a route does."""
_CONTEXT = (b"traceparent", b"tracestate")


def exporting(service: str, attributes: Mapping[str, str]) -> TracerProvider:
    """Sends spans, in batches and in a thread of its own. The environment may name the service otherwise."""
    provider = TracerProvider(resource=_resource(service, attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def close(provider: TracerProvider) -> None:
    """Sends what is left. A collector that does not answer is not waited for any longer than `CLOSE_SECONDS`."""
    closing = threading.Thread(target=provider.shutdown, daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)


def carrier(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What the headers of a request say of the span that it belongs to."""
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in _CONTEXT}


def fail(span: Span, kind: str) -> None:
    """What the span stands for has failed."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _resource(service: str, attributes: Mapping[str, str]) -> Resource:
    """What the environment says of this process, and what it leaves open."""
    given = Resource.create()
    own = dict(attributes)
    if str(given.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        own[SERVICE_NAME] = service
    if HOST_NAME not in given.attributes:
        own[HOST_NAME] = socket.gethostname()  # in a cluster the pod's name; the SDK's own id of an instance is random
    return given.merge(Resource(own))
