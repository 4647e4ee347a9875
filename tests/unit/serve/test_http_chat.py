"""`/v1/chat/completions`, `/v1/models`, `/tokenize` on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model
from tests.unit.serve.live import LiveServer, live_server

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the quick"}]


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), replace(llama, eos_ids=frozenset())) as live:
        yield live


async def chat(server: LiveServer, **fields):
    return await server.post("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, **fields})


async def test_the_prompt_is_the_rendered_template(server: LiveServer) -> None:
    rendered = "<s>system: be brief\n<s>user: the quick\nassistant:"
    tokens = (await server.post("/tokenize", {"messages": MESSAGES})).json["tokens"]
    assert (await server.post("/detokenize", {"tokens": tokens})).json == {"prompt": rendered}
    plain = await server.complete(tokens, max_tokens=9)
    answer = (await chat(server, max_tokens=9)).json
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": plain.text}
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == len(tokens)


async def test_a_stream_starts_with_the_role_and_carries_the_same_text(server: LiveServer) -> None:
    whole = (await chat(server, max_completion_tokens=20)).json["choices"][0]["message"]["content"]
    answer = await chat(server, max_completion_tokens=20, stream=True, stream_options={"include_usage": True})
    first, *chunks, last, usage, done = answer.events
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == whole
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert usage["usage"]["completion_tokens"] == 20
    assert {chunk["object"] for chunk in (first, *chunks, last, usage)} == {"chat.completion.chunk"}


async def test_content_may_be_text_parts(server: LiveServer) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "quick"}]
    body = {"messages": [MESSAGES[0], {"role": "user", "content": parts}], "temperature": 0, "max_tokens": 4}
    answer = await server.post("/v1/chat/completions", body)
    assert answer.json["choices"] == (await chat(server, max_tokens=4)).json["choices"]


async def test_log_probabilities_come_by_token(server: LiveServer) -> None:
    answer = await chat(server, max_tokens=3, logprobs=True, top_logprobs=2)
    content = answer.json["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    for entry in content:
        assert entry["logprob"] == max(top["logprob"] for top in entry["top_logprobs"])
        assert len(entry["top_logprobs"]) == 2
        assert bytes(entry["bytes"]).decode() == entry["token"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
async def test_what_is_not_served_is_a_400_that_names_the_field(server: LiveServer, fields: dict, param: str) -> None:
    answer = await chat(server, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "m")
    tiny.save_tokenizer(model, chat_template=None)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await chat(server)
    assert answer.status == 400
    assert "no chat template" in answer.error["message"]


async def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "m")
    tiny.save_tokenizer(model, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await chat(server)
    assert answer.status == 400
    assert "unsafe" in answer.error["message"]


async def test_models_are_listed(server: LiveServer) -> None:
    (card,) = (await server.get("/v1/models")).json["data"]
    assert card["id"] == "tiny"
    assert card["object"] == "model"
    assert (await server.get("/v1/models/tiny")).json == card
    assert (await server.get("/v1/models/other")).status == 404


async def test_tokenize_and_detokenize(server: LiveServer) -> None:
    answer = (await server.post("/tokenize", {"prompt": "the quick", "return_token_strs": True})).json
    assert answer["count"] == 2 == len(answer["tokens"])
    assert answer["max_model_len"] == 1024
    assert answer["token_strs"] == ["the", "Ġquick"]
    assert (await server.post("/detokenize", {"tokens": answer["tokens"]})).json == {"prompt": "the quick"}
    assert (await server.post("/detokenize", {"tokens": [5000]})).status == 400
    assert (await server.post("/tokenize", {})).error["param"] == "prompt"
