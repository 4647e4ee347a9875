"""One request through router, prefill and decode processes: its spans stand below each other as the work did."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.gateway.routers import router
from tests.integration.serve.collector import Collector, Span
from tests.integration.serve.processes import ready, server
from tests.unit.serve import tiny

pytestmark = pytest.mark.integration

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WORDS = "hunter2 " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny.save_llama(tmp_path_factory.mktemp("spans-model"), max_position_embeddings=4096)
    tiny.save_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def spans(model: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> list[Span]:
    """Those of one streamed request of a client that has a span of its own."""
    common = ("--model", str(model), "--served-model-name", "tiny", "--kv-cache-tokens", "8192")
    logs, environment = tmp_path_factory.mktemp("spans"), collector.environment
    with ExitStack() as stack:
        roles = ("prefill", "decode")
        started = [
            stack.enter_context(server(logs, *common, "--role", role, env={**environment, "OTEL_SERVICE_NAME": role}))
            for role in roles
        ]
        ports = {role: ready(one).port for role, one in zip(roles, started, strict=True)}
        front = stack.enter_context(router(logs, ports, env=environment))
        body = {"model": "tiny", "prompt": WORDS, "max_tokens": 5, "temperature": 0, "ignore_eos": True, "stream": True}
        headers = {"content-type": "application/json", "traceparent": f"00-{TRACE}-{CLIENT}-01"}
        request = urllib.request.Request(f"{front.url}/v1/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        return collector.until(lambda found: {(span.role, span.name) for span in found} >= EXPECTED)


EXPECTED = {
    ("", "POST /v1/completions"),
    ("", "prefill"),
    ("", "decode"),
    ("prefill", "POST /v1/completions"),
    ("prefill", "queue"),
    ("prefill", "prefill"),
    ("prefill", "GET /kv/{kv_id}"),
    ("decode", "POST /v1/completions"),
    ("decode", "queue"),
    ("decode", "hand_off"),
    ("decode", "decode"),
}


def one(spans: list[Span], role: str, name: str) -> Span:
    (found,) = (span for span in spans if (span.role, span.name) == (role, name))
    return found


def test_every_span_stands_below_the_work_that_it_was_done_for(spans: list[Span]) -> None:
    request = one(spans, "", "POST /v1/completions")
    assert request.parent == CLIENT
    assert {span.trace for span in spans} == {TRACE}
    for role in ("prefill", "decode"):
        leg, served = one(spans, "", role), one(spans, role, "POST /v1/completions")
        assert leg.parent == request.id
        assert served.parent == leg.id
        assert one(spans, role, "queue").parent == served.id
        assert one(spans, role, {"prefill": "prefill", "decode": "hand_off"}[role]).parent == served.id
    assert one(spans, "decode", "decode").parent == one(spans, "decode", "POST /v1/completions").id
    fetches = [span for span in spans if span.name == "GET /kv/{kv_id}"]
    assert {span.parent for span in fetches} == {one(spans, "decode", "hand_off").id}


def test_spans_have_the_attributes_of_the_conventions(spans: list[Span]) -> None:
    router_span, decode = (one(spans, role, "POST /v1/completions") for role in ("", "decode"))
    assert (router_span.service, decode.service) == ("tandem-router", "decode")
    assert router_span.attributes["tandem.outcome"] == "ok"
    assert router_span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    told = decode.attributes
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == "tiny"
    assert told["gen_ai.usage.input_tokens"] > 40
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["tandem.request_id"].startswith(router_span.attributes["tandem.request_id"])


def test_no_word_of_the_prompt_is_sent(spans: list[Span], collector: Collector) -> None:
    assert spans
    assert not any(b"hunter" in body for body in collector.bodies)


@pytest.mark.parametrize("module", ["tandem.gateway.server", "tandem_serve.server"])
def test_nothing_of_the_sdk_is_imported_where_no_spans_are_sent(module: str) -> None:
    program = f"import sys, {module}; sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
