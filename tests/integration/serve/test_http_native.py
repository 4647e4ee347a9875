"""The guarded generation service: `/`, `/generate`, `/health`, `/model-info` and their limits."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, eventually, live_server

PROMPT = "the quick brown fox"


@pytest.fixture
async def server(endless: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), endless) as live:
        yield live


async def generate(server: LiveServer, **fields):
    return await server.post("/generate", {"prompt": PROMPT, **fields})


async def test_s1_01_the_root_describes_the_api(server: LiveServer) -> None:
    body = (await server.get("/")).json
    assert set(body) == {"message", "status", "endpoints"}
    assert body["endpoints"] == {"generate": "/generate", "health": "/health", "model_info": "/model-info"}


async def test_s1_02_generate_applies_its_defaults(server: LiveServer) -> None:
    body = (await generate(server, seed=3)).json
    explicit = {"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "num_return_sequences": 1}
    assert body == (await generate(server, seed=3, **explicit)).json
    assert set(body) == {"generated_texts", "model_name", "device"}
    assert (body["model_name"], body["device"]) == ("tiny", "cpu")
    assert server.stats.generated_tokens == 2 * 64


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("max_new_tokens", (1, 512), (0, 513)),
        ("temperature", (0.1, 2), (0.09, 2.01)),
        ("top_p", (0, 1), (-0.01, 1.01)),
        ("top_k", (0, 100), (-1, 101)),
        ("num_return_sequences", (1, 5), (0, 6)),
    ],
)
async def test_s1_02_each_bound_is_kept(server: LiveServer, field: str, good: tuple, bad: tuple) -> None:
    short = {"max_new_tokens": 1}
    for value in good:
        answer = await generate(server, **short | {field: value})
        assert answer.status == 200, (field, value)
    assert len((await generate(server, num_return_sequences=5, **short)).json["generated_texts"]) == 5
    for value in bad:
        answer = await generate(server, **short | {field: value})
        assert (answer.status, answer.error["param"]) == (422, field)


async def test_s1_03_health_is_503_until_the_model_is_loaded(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), llama, attach=False) as server:
        server.service.loading = lambda: {"step": "weights", "loaded_bytes": 3, "total_bytes": 10}
        answer = await server.get("/health")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.json == {
            "status": "loading",
            "model_loaded": False,
            "message": "Model not loaded",
            "step": "weights",
            "loaded_bytes": 3,
            "total_bytes": 10,
        }
        assert (await server.get("/livez")).status == 200
        assert (await server.complete(PROMPT)).status == 503
        assert (await server.get("/model-info")).error["message"] == "Model not loaded"
        server.service.attach(server.running.backend)
        answer = await server.get("/health")
        assert (answer.status, answer.json) == (200, {"status": "healthy", "model_loaded": True, "device": "cpu"})


async def test_s1_04_model_info_describes_the_loaded_model(server: LiveServer, llama_dir: Path) -> None:
    body = (await server.get("/model-info")).json
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    config = model.config
    assert (body["model_name"], body["device"]) == ("tiny", "cpu")
    assert (body["model_type"], body["vocab_size"]) == (config.model_type, config.vocab_size)
    assert body["parameters"] == model.num_parameters()
    assert body["size_mb"] == pytest.approx(body["parameters"] * 4 / 1e6, abs=0.001)


async def test_s1_05_the_api_refuses_more_than_512_new_tokens(endless: LoadedModel) -> None:
    settings = tiny.settings(Path("x"), generation={"MAX_NEW_TOKENS": 900, "DEFAULT_MAX_NEW_TOKENS": 900})
    async with live_server(settings, endless) as server:
        assert (await generate(server, max_new_tokens=513)).status == 422
        assert (await generate(server)).status == 200
        assert server.stats.generated_tokens == 512


async def test_s1_06_the_configured_limit_caps_and_says_so(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), generation={"MAX_NEW_TOKENS": 128}), endless) as server:
        capped = await generate(server, max_new_tokens=300)
        assert (capped.status, capped.json["capped"]) == (200, True)
        assert server.stats.generated_tokens == 128
        assert "capped" not in (await generate(server, max_new_tokens=128)).json
        openai = (await server.complete(PROMPT, max_tokens=300)).json
        assert (openai["capped"], openai["usage"]["completion_tokens"]) == (True, 128)


async def test_s1_07_never_more_than_the_semaphore_allows_run_at_once(
    endless: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_server(tiny.settings(Path("x"), max_num_seqs=2), endless) as server:
        seen: list[int] = []
        forward = server.core.engine.runner.forward

        def watched(plan, *others):
            seen.append(len({chunk.sequence.seq_id for chunk in plan}))
            return forward(plan, *others)

        monkeypatch.setattr(server.core.engine.runner, "forward", watched)
        answers = await asyncio.gather(*(generate(server, max_new_tokens=20) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert max(seen) == 2


async def test_s1_07_one_request_more_than_the_queue_holds_gets_429(endless: LoadedModel) -> None:
    settings = tiny.settings(Path("x"), max_num_seqs=1, generation={"MAX_QUEUE": 2})
    async with live_server(settings, endless) as server:
        answers = await asyncio.gather(*(generate(server, max_new_tokens=60) for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [200, 200, 200, 429, 429]
        refused = next(answer for answer in answers if answer.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert (await generate(server, max_new_tokens=1)).status == 200


async def test_s1_08_a_timeout_is_a_504_and_the_generation_has_stopped(endless: LoadedModel) -> None:
    live: list[LiveServer] = []

    def a_second_per_token() -> float:
        return float(live[0].stats.generated_tokens) if live else 0.0

    settings = tiny.settings(Path("x"), max_num_seqs=1, generation={"TIMEOUT_SECONDS": 5})
    async with live_server(settings, endless, clock=a_second_per_token) as server:
        live.append(server)
        answer = await generate(server, max_new_tokens=512)
        assert (answer.status, answer.error["code"]) == (504, "generation_timeout")
        assert answer.headers["x-should-retry"] == "false"
        assert "fewer new tokens" in answer.error["message"]
        assert (server.stats.running, server.stats.kv_used_tokens) == (0, 0)
        await server.get("/health")
        assert server.stats.generated_tokens in (5, 6)
        streamed = await server.complete(PROMPT, max_tokens=512, stream=True)
        assert (streamed.status, streamed.events[-1]["error"]["code"]) == (200, "generation_timeout")


@pytest.mark.parametrize("path", ["/v1/completions/", "/openapi.json", "/docs"])
async def test_no_address_leads_elsewhere_and_none_describes_the_rest(server: LiveServer, path: str) -> None:
    answer = await server.request("POST" if path.endswith("/") else "GET", path, allow_redirects=False)
    assert answer.status == 404


async def test_s1_10_a_prompt_that_is_too_long_is_refused(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), generation={"MAX_PROMPT_TOKENS": 10}), endless) as server:
        assert (await server.complete(list(range(10, 20)), max_tokens=1)).status == 200
        answer = await server.complete(list(range(10, 21)), max_tokens=1)
        assert (answer.status, answer.error["param"]) == (413, "prompt")
        assert "11 tokens" in answer.error["message"]


async def test_s1_10_or_cut_at_its_start_and_reported(endless: LoadedModel) -> None:
    generation = {"MAX_PROMPT_TOKENS": 10, "ON_OVERLONG": "truncate"}
    async with live_server(tiny.settings(Path("x"), generation=generation), endless) as server:
        long = list(range(10, 60))
        answer = (await server.complete(long, max_tokens=5)).json
        kept = (await server.complete(long[-10:], max_tokens=5)).json
        assert answer["choices"] == kept["choices"]
        assert (answer["prompt_truncated"], answer["prompt_tokens_kept"], answer["prompt_tokens_given"]) == (
            True,
            10,
            50,
        )
        assert answer["usage"]["prompt_tokens"] == 10
        assert "prompt_truncated" not in kept


async def test_a_request_that_can_never_fit_is_refused_at_once(endless: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x"), kv_cache_tokens=32), endless) as server:
        assert (await server.complete([5] * 33, max_tokens=1)).status == 413
        answer = await server.complete([5] * 20, max_tokens=20)
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert (await server.complete([5] * 20, max_tokens=13)).status == 200
        assert (await server.complete([5] * 32)).json["usage"]["completion_tokens"] == 1


async def test_s1_15_prompts_are_not_logged(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await generate(server, max_new_tokens=3)
    lines = [vars(record) for record in caplog.records if record.name.startswith("tandem_serve")]
    started = next(line for line in lines if line["msg"] == "generation")
    assert (started["levelname"], started["prompt_tokens"], started["max_new_tokens"]) == ("DEBUG", 4, 3)
    answered = next(line for line in lines if line["msg"] == "request")
    assert (answered["levelname"], answered["status"]) == ("INFO", 200)
    assert not any("quick" in str(line) for line in lines)


async def test_s1_27_errors_have_type_message_and_request_id_and_no_traceback(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {
        400: await server.complete(PROMPT, max_tokens=-1),
        413: await server.complete("x" * 1_000_001),
        404: await server.get("/nothing"),
        405: await server.get("/generate"),
        415: await server.request("POST", "/generate", data="prompt=x", headers={"content-type": "text/plain"}),
        422: await generate(server, temperature="hot"),
    }
    monkeypatch.setattr(server.core.engine.runner.model, "forward", lambda **_: 1 / 0)
    cases[500] = await generate(server)
    for status, answer in cases.items():
        assert answer.status == status
        assert {"type", "message", "request_id"} <= set(answer.error)
        assert answer.error["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.body.decode()
        assert 'File "' not in answer.body.decode()


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe{}", b"[1]", b"", b'"text"', b'{"prompt": "\xff"}'])
async def test_s1_27_a_body_that_is_not_a_json_object_is_refused(server: LiveServer, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await server.request("POST", "/v1/completions", data=body, headers=headers)
    assert answer.status == 400
    assert answer.error["message"]


async def test_a_body_above_the_limit_is_refused_without_being_read(server: LiveServer) -> None:
    server_limit = server.service.settings.max_body_bytes
    headers = {"content-type": "application/json"}

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(server_limit // 100_000 + 2):
            yield b" " * 100_000

    for data in (b" " * (server_limit + 1), chunks()):
        answer = await server.request("POST", "/v1/completions", data=data, headers=headers)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert (await server.complete(PROMPT, max_tokens=1)).status == 200


async def test_s1_30_answers_stream_as_server_sent_events_and_none_comes_from_a_cache(server: LiveServer) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    whole = [(await server.post("/v1/completions", body)).text for _ in range(2)]
    assert server.stats.generated_tokens == 2 * 8
    streamed = await server.post("/v1/completions", body | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.events[-1] == "[DONE]"
    assert [whole[0]] * 2 == [whole[1], "".join(event["choices"][0]["text"] for event in streamed.events[:-1])]


async def test_metrics_show_requests_tokens_and_gauges(server: LiveServer) -> None:
    await server.complete(PROMPT, max_tokens=5)
    assert await server.metric("tandem_generated_tokens_total") == 5
    assert await server.metric('tandem_prompt_tokens_total{source="computed"}') == 4
    assert await server.metric('tandem_requests_total{path="/v1/completions",status="200"}') == 1
    assert await server.metric("vllm:num_requests_running") == 0
    text = (await server.get("/metrics")).body.decode()
    assert all(
        f'vllm:{name}{{engine="0",model_name="tiny"}} ' in text
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    )


async def test_liveness_fails_when_the_engine_is_stuck(server: LiveServer) -> None:
    server.service.fail("a step has taken 301 s")
    answer = await server.get("/livez")
    assert (answer.status, answer.json) == (503, {"status": "stuck", "message": "a step has taken 301 s"})
    assert (await server.get("/health")).json["message"] == "a step has taken 301 s"
    refused = await server.complete(PROMPT)
    assert (refused.status, refused.error["code"], refused.error["message"]) == (503, "stuck", "a step has taken 301 s")


async def test_s1_08_a_step_that_goes_on_beyond_the_time_limit_holds_up_no_answer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, called = threading.Event(), threading.Event()
    forward, client = server.core.engine.runner.forward, server.running.backend.client

    def slow(*arguments):
        called.set()
        goes_on.wait(60)
        return forward(*arguments)

    monkeypatch.setattr(server.core.engine.runner, "forward", slow)
    try:
        waiting = asyncio.create_task(server.complete(PROMPT, max_tokens=5, n=2))
        await eventually(called.is_set)
        arrived = server.service.clock()
        client.expire(arrived + 60)
        assert client.in_flight == 2
        client.expire(arrived + 66)
        answer = await waiting
        assert (answer.status, answer.error["code"]) == (504, "generation_timeout")
        assert client.in_flight == 2, "their slots are not free yet"
    finally:
        goes_on.set()
    await eventually(lambda: client.in_flight == 0)
    assert (await server.complete(PROMPT, max_tokens=5)).status == 200


async def test_whoever_waits_when_the_engine_gets_stuck_has_an_answer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, called = threading.Event(), threading.Event()

    def never_returns(**_: object) -> None:
        called.set()
        goes_on.wait(60)
        raise RuntimeError("the device is back")

    monkeypatch.setattr(server.core.engine.runner.model, "forward", never_returns)
    try:
        waiting = [asyncio.create_task(server.complete(PROMPT, stream=stream)) for stream in (False, True)]
        await eventually(lambda: called.is_set() and server.running.backend.client.in_flight == 2)
        server.service.fail("a step has taken 301 s")
        for answer in await asyncio.gather(*waiting):
            assert (answer.status, answer.error["message"]) == (500, "a step has taken 301 s")
    finally:
        goes_on.set()
