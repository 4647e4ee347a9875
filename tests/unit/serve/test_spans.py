"""Spans of the server: what each sequence of a request did, how its KV was fetched, and nothing of its words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tandem_serve.engine.types import Finish, FinishReason, RemoteKv, SamplingParams, SequenceRequest, Update
from tandem_serve.otel import OtelSpans
from tandem_serve.spans import Spans
from tandem_serve.tracing import from_environment

PLACE = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}
CLIENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STOP = Finish(reason=FinishReason.STOP)


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(sent: InMemorySpanExporter) -> Iterator[OtelSpans]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(sent))
    yield OtelSpans(provider, model="tiny", role="decode")
    provider.shutdown()


def scope(path: str = "/v1/completions", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": list(headers)}


def sequence(number: int, *prompt: int, remote: RemoteKv | None = None) -> SequenceRequest:
    sampling = SamplingParams(max_tokens=8, temperature=0.5)
    return SequenceRequest(seq_id=number, request_id="r", prompt=prompt, sampling=sampling, remote=remote)


def by_name(sent: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in sent.get_finished_spans()}


def test_a_request_has_queue_prefill_and_decode_below_it(spans: OtelSpans, sent: InMemorySpanExporter) -> None:
    with spans.request(scope("/v1/completions", (b"traceparent", CLIENT)), request_id="r-1") as answered:
        spans.begin([sequence(1, 5, 6, 7)])
        spans.on_update(Update(seq_id=1, started=True))
        spans.on_update(Update(seq_id=1, token_ids=(8,)))
        spans.on_update(Update(seq_id=1, token_ids=(9, 10), finish=STOP))
        answered("/v1/completions", 200)
    found = by_name(sent)
    assert list(found) == ["queue", "prefill", "decode", "POST /v1/completions"]
    request = found["POST /v1/completions"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}".encode() == CLIENT.split(b"-")[2]
    phases = [found[name] for name in ("queue", "prefill", "decode")]
    assert {span.parent.span_id for span in phases if span.parent} == {request.context.span_id}
    assert [one.end_time <= other.start_time for one, other in itertools.pairwise(phases)] == [True, True]
    told = dict(request.attributes or {})
    assert 0 <= told.pop("gen_ai.response.time_to_first_chunk") < 60
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("stop",),
        "tandem.request_id": "r-1",
        "tandem.role": "decode",
    }


async def test_a_fetch_of_kv_names_the_hand_off(spans: OtelSpans, sent: InMemorySpanExporter) -> None:
    import aiohttp
    from multidict import CIMultiDict
    from yarl import URL

    (config,) = spans.of_pulls()
    remote = RemoteKv(host="p", port=1, kv_id="abc", token="t", lease_seconds=1)

    async def named(method: str = "GET") -> str | None:
        url, headers = URL("http://p:1/kv/abc?first=0"), CIMultiDict[str]()
        await config.on_request_start[0](None, None, aiohttp.TraceRequestStartParams(method, url, headers))  # type: ignore[arg-type]
        return headers.get("traceparent")

    with spans.request(scope(), request_id="r") as answered:
        spans.begin([sequence(1, 5, 6, remote=remote)])
        assert await named() is None
        spans.on_update(Update(seq_id=1, started=True, pull_from=0))
        during = await named()
        assert await named("DELETE") is None
        spans.on_update(Update(seq_id=1, token_ids=(8,)))
        assert await named() is None
        spans.on_update(Update(seq_id=1, finish=STOP))
        answered("/v1/completions", 200)
    hand_off = by_name(sent)["hand_off"]
    assert during is not None
    assert during.split("-")[2] == f"{hand_off.context.span_id:016x}"


def test_a_request_that_left_before_its_end_is_told_without_it(spans: OtelSpans, sent: InMemorySpanExporter) -> None:
    with spans.request(scope(), request_id="r") as answered:
        spans.begin([sequence(1, 5), sequence(2, 5)])
        answered("/v1/completions", 200)
    spans.on_update(Update(seq_id=1, finish=Finish(reason=FinishReason.CANCELLED)))
    spans.on_update(Update(seq_id=2, finish=Finish(reason=FinishReason.ERROR)))
    spans.on_update(Update(seq_id=2, token_ids=(1,)))
    request, *queues = sent.get_finished_spans()
    assert (request.attributes or {})["gen_ai.usage.input_tokens"] == 1
    assert [(span.name, span.status.is_unset) for span in queues] == [("queue", True), ("queue", False)]


def test_probes_heartbeats_and_what_is_not_sampled_have_none(spans: OtelSpans, sent: InMemorySpanExporter) -> None:
    for path in ("/health", "/livez", "/metrics", "/kv/abc/lease"):
        with spans.request(scope(path), request_id="r") as answered:
            answered(path, 200)
    with spans.request(scope("/generate", (b"traceparent", CLIENT[:-1] + b"0")), request_id="r") as answered:
        spans.begin([sequence(1, 5)])
        spans.on_update(Update(seq_id=1, started=True, finish=STOP))
        answered("/generate", 200)
    assert sent.get_finished_spans() == ()


def test_spans_are_made_where_the_environment_names_a_collector() -> None:
    assert type(from_environment({}, model="m", role="agg")) is Spans
    made = from_environment(PLACE, model="m", role="agg")
    made.close()
    assert type(made) is OtelSpans
