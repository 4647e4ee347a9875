"""OpenAI's own client, as its users write it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

pytestmark = pytest.mark.integration

MESSAGES = [{"role": "user", "content": "the quick"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Ulm", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Stop(BaseModel):
    """A part of a route."""

    city: Literal["Ulm", "Rome"]
    nights: int = Field(ge=0, le=9)


class Route(BaseModel):
    """What a model is made to answer."""

    stops: list[Stop] = Field(min_length=1, max_length=2)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as one:
        yield one


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    common = {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**common, logprobs=True, top_logprobs=2)
    assert whole.usage is not None
    assert whole.choices[0].logprobs is not None
    chunks = list(client.chat.completions.create(**common, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_models_answer_is_parsed_into_a_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Route, max_tokens=600, seed=1
    )
    route = answer.choices[0].message.parsed
    assert isinstance(route, Route)
    assert 1 <= len(route.stops) <= 2


def test_tools_are_called_and_answered(client: openai.OpenAI) -> None:
    common = {"model": "tiny", "tools": [WEATHER], "max_tokens": 300, "parallel_tool_calls": False, "seed": 1}
    first = client.chat.completions.create(messages=MESSAGES, tool_choice="required", **common)
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls or []
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Ulm", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "warm"}
    second = client.chat.completions.create(
        messages=[*MESSAGES, first.choices[0].message, result], **{**common, "max_tokens": 8}
    )
    assert second.choices[0].finish_reason in ("stop", "length")


async def test_a_stream_of_a_call_is_put_together(async_client: openai.AsyncOpenAI) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    async with async_client.chat.completions.stream(
        model="tiny", messages=MESSAGES, tools=[WEATHER], tool_choice=choice, max_tokens=300, parallel_tool_calls=False
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments)["city"] in ("Ulm", "Rome")


async def test_a_stream_is_parsed_into_a_class(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.chat.completions.stream(
        model="tiny", messages=MESSAGES, response_format=Route, max_tokens=600, seed=2
    ) as stream:
        final = await stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Route)


def test_a_cut_answer_is_told_as_such(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Route, max_tokens=3)


def test_errors_are_its_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings") as refused:
        client.embeddings.create(model="tiny", input="x")
    assert refused.value.code == "unsupported_endpoint"
    with pytest.raises(openai.NotFoundError, match="responses"):
        client.responses.create(model="tiny", input="x")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=schema)
    assert wrong.value.param == "response_format.json_schema.schema.not"
