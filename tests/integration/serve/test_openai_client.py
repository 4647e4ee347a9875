"""OpenAI's own client against a running server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, live_server

pytestmark = pytest.mark.integration

MESSAGES = [{"role": "user", "content": "the quick"}]


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), replace(llama, eos_ids=frozenset())) as live:
        yield live


@pytest.fixture
async def impatient(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    settings = tiny.settings(Path("x"), generation={"TIMEOUT_SECONDS": 0.2})
    async with live_server(settings, replace(llama, eos_ids=frozenset())) as live:
        yield live


@pytest.fixture
async def client(server: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as one:
        yield one


async def test_answers_and_streams_are_understood(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, temperature=0)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    stream = await client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    completion = await client.completions.create(model="tiny", prompt="the quick", max_tokens=3, logprobs=1, echo=True)
    assert completion.choices[0].logprobs is not None
    assert len(completion.choices[0].logprobs.tokens or []) == 5
    assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_errors_arrive_as_its_exceptions(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="tools") as refused:
        await client.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert refused.value.param == "tools"


async def test_timeouts_are_not_retried(impatient: LiveServer) -> None:
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{impatient.port}/v1", api_key="none")
    with pytest.raises(openai.InternalServerError, match="was stopped") as late:
        await client.completions.create(model="tiny", prompt="x", max_tokens=512)
    assert late.value.status_code == 504
    assert await impatient.metric('tandem_requests_total{path="/v1/completions",status="504"}') == 1
    with pytest.raises(openai.APIError, match="was stopped"):
        async for _ in await client.completions.create(model="tiny", prompt="x", max_tokens=512, stream=True):
            pass
    await client.close()
