"""A small collector of OpenTelemetry: takes spans by OTLP over HTTP and keeps them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Span:
    """One span as it came; ids in hexadecimal digits."""

    service: str
    role: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


class Collector:
    """Listens on a free port of the loopback while the context lasts."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What names it to a process, and has spans sent soon."""
        place = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": place, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        """All so far."""
        return [span for body in list(self.bodies) for span in _spans(body)]

    def until(self, complete: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, once they are complete."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not complete(spans := self.spans()):
            assert time.monotonic() < deadline, "\n".join(map(str, spans))
            time.sleep(0.05)
        return spans

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        return Handler


def _spans(body: bytes) -> list[Span]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        own = _values(resource.resource.attributes)
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            found.append(
                Span(
                    service=own["service.name"],
                    role=own.get("tandem.role", ""),
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes=_values(span.attributes),
                )
            )
    return found


def _values(pairs: Any) -> dict[str, Any]:
    def plain(value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        return [plain(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    every: list[KeyValue] = list(pairs)
    return {pair.key: plain(pair.value) for pair in every}
