"""Whether the router makes spans, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tandem.gateway.call import Record
from tandem.gateway.fleet import Endpoint, Role
from tandem.gateway.otel import OtelSpans
from tandem.gateway.spans import Spans
from tandem.gateway.tracing import from_environment

PLACE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORKER = Endpoint("d-0", "10.0.0.7", 8000, Role.DECODE, "r1", True)


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(sent: InMemorySpanExporter) -> Iterator[OtelSpans]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(sent))
    yield OtelSpans(provider)
    provider.shutdown()


def record(**changes) -> Record:
    given = {"request_id": "r-1", "method": "POST", "route": "/v1/completions", "started": 1.0, "status": 200}
    return Record(**{**given, "outcome": "ok", **changes})


def test_spans_are_made_where_the_environment_names_a_collector():
    assert type(from_environment({}, deployment="d")) is Spans
    made = from_environment(PLACE, deployment="d")
    made.close()
    assert type(made) is OtelSpans


def test_a_request_stands_below_the_clients_span_and_its_leg_below_it(spans, sent):
    headers = {"Traceparent": CLIENT}
    with spans.request([(b"traceparent", CLIENT.encode())], record()):
        spans.leg(WORKER, headers).end("ok", status=200)
    leg, request = sent.get_finished_spans()
    assert (request.name, request.kind) == ("POST /v1/completions", SpanKind.SERVER)
    assert f"{request.parent.span_id:016x}" == CLIENT.split("-")[2]
    assert (leg.name, leg.kind, leg.parent.span_id) == ("decode", SpanKind.CLIENT, request.context.span_id)
    assert headers["traceparent"] == f"00-{request.context.trace_id:032x}-{leg.context.span_id:016x}-01"
    assert leg.attributes["tandem.worker"] == "d-0"


def test_a_request_tells_what_the_audit_line_tells(spans, sent):
    told = record(first_byte=1.25, local_prefill="prefill_failed", tries=[{}, {}])
    with spans.request([], told):
        pass
    (request,) = sent.get_finished_spans()
    assert request.parent is None
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.response.time_to_first_chunk": 0.25,
        "tandem.request_id": "r-1",
        "tandem.outcome": "ok",
        "tandem.attempts": 2,
        "tandem.local_prefill": "prefill_failed",
    }
    assert request.status.is_unset


def test_failures_are_errors_and_a_client_that_left_is_none(spans, sent):
    for changes in ({"status": 502, "outcome": "worker_failed"}, {"outcome": "stream_broken"}):
        with spans.request([], record(**changes)):
            spans.leg(WORKER, {}).end("connect")
    with spans.request([], record(status=499, outcome="client_gone")):
        pass
    *failed, gone = sent.get_finished_spans()
    assert [span.attributes["error.type"] for span in failed] == [
        "connect",
        "worker_failed",
        "connect",
        "stream_broken",
    ]
    assert not any(span.status.is_ok or span.status.is_unset for span in failed)
    assert gone.status.is_unset


def test_a_client_that_is_not_sampled_stays_so(spans, sent):
    headers: dict[str, str] = {}
    with spans.request([(b"traceparent", CLIENT[:-1].encode() + b"0")], record()):
        leg = spans.leg(WORKER, headers)
        leg.end("ok")
        leg.end("ok")
    assert sent.get_finished_spans() == ()
    assert headers["traceparent"].startswith(CLIENT[:35])
    assert headers["traceparent"].endswith("-00")
