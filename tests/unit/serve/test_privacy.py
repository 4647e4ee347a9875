"""No text of a prompt is in the log, at no level, whatever goes wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tandem_serve import logs
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.text import TextCodec
from tandem_serve.http import shapes
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, live_server

MARK = "xyzzy-plugh"
JSON = {"content-type": "application/json"}


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    settings = tiny.settings(Path("x"), generation={"MAX_PROMPT_TOKENS": 100})
    async with live_server(settings, replace(llama, eos_ids=frozenset())) as live:
        yield live


async def served_and_refused(server: LiveServer) -> set[int]:
    """Requests of all kinds that hold the mark; the statuses of their answers."""
    messages = [{"role": "user", "content": MARK}]
    answers = [
        await server.complete(MARK, max_tokens=3, echo=True, logprobs=1, stop=[MARK]),
        await server.complete(MARK, max_tokens=3, stream=True),
        await server.complete(MARK * 100),
        await server.complete([MARK, 5]),
        await server.complete(MARK, temperature=MARK, suffix=MARK, max_tokens=MARK),
        await server.complete(MARK, model=MARK),
        await server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 2}),
        await server.post("/v1/chat/completions", {"messages": [{"role": "tool", "content": MARK}]}),
        await server.post("/v1/chat/completions", {"messages": [{"role": MARK}], MARK: [MARK]}),
        await server.post("/generate", {"prompt": MARK, "max_new_tokens": 2}),
        await server.post("/generate", {"prompt": [MARK]}),
        await server.post("/tokenize", {"prompt": MARK}),
        await server.request("POST", "/v1/completions", data=f'{{"prompt": "{MARK}'.encode(), headers=JSON),
        await server.request(
            "POST", "/v1/completions", data=f'{{"prompt": "{MARK}\xff"}}'.encode("latin-1"), headers=JSON
        ),
        await server.request("POST", "/v1/completions", data=MARK),
        await server.get(f"/v1/models?prompt={MARK}"),
    ]
    return {answer.status for answer in answers}


async def crashed(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of ours in every layer, whose errors quote the request."""

    def quote(*words: object, **_: object) -> None:
        raise ValueError(f"cannot handle {words} {MARK}")

    for target, name in ((TextCodec, "encode"), (shapes, "usage"), (server.service, "deadline")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, quote)
            assert (await server.complete(MARK, max_tokens=2)).status == 500
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "finish_reason", quote)
        with pytest.raises(aiohttp.ClientError):  # in the middle of a stream: it ends unfinished
            await server.complete(MARK, max_tokens=2, stream=True)
    asyncio.get_running_loop().call_exception_handler({"message": "a task failed", "exception": ValueError(MARK)})


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_s1_15_no_text_of_a_prompt_is_in_the_log(
    server: LiveServer, level: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.setup(log_format="json", level=level)
    assert {200, 400, 404, 413, 415, 422} <= await served_and_refused(server)
    await crashed(server, monkeypatch)
    assert (await server.complete("fine", max_tokens=1)).status == 200
    written = capsys.readouterr().err
    assert MARK not in written
    lines = [json.loads(line) for line in written.splitlines()]
    assert any(line["message"] == "request failed" and "ValueError" in line["exception"] for line in lines)
    assert any("prompt_tokens" in line for line in lines) == (level == "debug")


async def test_every_line_about_a_request_has_its_id_also_the_engines(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.setup(log_format="json", level="debug")
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "req-7", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = await server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}, headers=headers)
    assert answer.headers["x-request-id"] == "req-7"
    monkeypatch.setattr(server.core.engine.runner.model, "forward", lambda **_: 1 / 0)
    await server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}, headers=headers)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    by_message = {line["message"]: line for line in lines if line["logger"].startswith("tandem_serve.")}
    assert set(by_message) == {"generation", "sequence ended", "request", "a step failed; its sequences end"}
    assert by_message.pop("a step failed; its sequences end")["request_ids"] == ["req-7"]
    assert {line["request_id"] for line in by_message.values()} == {"req-7"}
    assert by_message["request"]["trace_id"] == trace
