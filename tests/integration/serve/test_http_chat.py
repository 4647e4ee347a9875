"""`/v1/chat/completions`, `/v1/models`, `/tokenize` on a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.http.prompts import template_fault
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
        ({"messages": [{"role": "bad", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
async def test_what_is_not_served_is_a_400_that_names_the_field(server: LiveServer, fields: dict, param: str) -> None:
    answer = await chat(server, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_a_role_that_is_none_is_named_with_those_that_are_known(server: LiveServer) -> None:
    answer = await chat(server, messages=[{"role": "bad", "content": "x"}])
    assert "'bad'" in answer.error["message"]
    assert "system, developer, user, assistant, tool, function" in answer.error["message"]


async def test_top_p_0_takes_the_likeliest_token(server: LiveServer) -> None:
    likeliest = (await chat(server, max_tokens=8)).json["choices"][0]["message"]
    answer = await chat(server, max_tokens=8, temperature=1, top_p=0)
    assert answer.json["choices"][0]["message"] == likeliest


async def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "m")
    tiny.save_tokenizer(model, chat_template=None)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await chat(server)
    assert answer.status == 400
    assert "no chat template" in answer.error["message"]


async def test_a_template_that_cannot_be_read_is_said_to_be_the_models(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "m")
    tiny.save_tokenizer(model, chat_template="{% for message in messages %}{{ message.content }")
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await chat(server)
        assert str(template_fault(server.core.codec)).startswith("line 1: ")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "broken_chat_template", None)
    assert "the model's own chat template is broken (line 1: " in answer.error["message"]


async def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "m")
    tiny.save_tokenizer(model, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await chat(server)
    assert answer.status == 400
    assert "unsafe" in answer.error["message"]


LONG = "word salad, " * 90_000
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": LONG})}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": LONG}]},
        {"messages": [{"role": "user", "content": "x", "name": LONG}]},
        {"messages": [{"role": "user", "content": "x", "more": {"deep": [[LONG]]}}]},
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": MESSAGES, "chat_template_kwargs": {"date": LONG}},
        {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
    ],
)
async def test_all_that_a_template_may_write_down_counts_as_text(server: LiveServer, body: dict) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        # A model without tools refuses them before their length matters; what is tokenized takes them.
        answer = await server.post(path, body)
        if path == "/tokenize" or "tools" not in body:
            assert (answer.status, answer.error["param"]) == (413, "messages"), answer.body[:300]
            assert "characters, and this server reads at most 1000000" in answer.error["message"]


async def test_what_a_template_makes_more_of_is_measured_too(tmp_path: Path) -> None:
    model = tiny.save_llama(tmp_path / "model")
    tiny.save_tokenizer(model, chat_template="{% for i in range(200) %}{{ messages[0].content }}{% endfor %}")
    async with live_server(tiny.settings(model), load_model(model)) as server:
        answer = await server.post("/tokenize", {"messages": [{"role": "user", "content": "x" * 6_000}]})
    assert (answer.status, answer.error["param"]) == (413, "messages")
    assert "1200000 characters" in answer.error["message"]


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


async def test_tools_are_part_of_what_is_tokenized(server: LiveServer) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"messages": MESSAGES, "chat_template_kwargs": {"x": 1}}
    plain = (await server.post("/tokenize", body)).json
    assert (await server.post("/tokenize", {**body, "tools": tools})).json == plain  # the template knows no tools
    refused = await server.post("/tokenize", {**body, "continue_final_message": True})
    assert refused.error["param"] == "continue_final_message"


async def test_the_tokenizer_is_described(server: LiveServer) -> None:
    info = (await server.get("/tokenizer_info")).json
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    assert info["chat_template"] == tiny.CHAT_TEMPLATE
    assert info["model_max_length"] == 1024


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/audio/speech"])
async def test_other_routes_of_openai_say_that_they_are_not_here(server: LiveServer, path: str) -> None:
    answer = await server.post(path, {"input": "x"})
    assert (answer.status, answer.error["code"]) == (404, "unsupported_endpoint")
    assert "/v1/chat/completions" in answer.error["message"]


async def test_tokens_come_with_the_text_when_asked_for(server: LiveServer) -> None:
    fields = {"max_tokens": 6, "return_token_ids": True}
    answer = (await chat(server, **fields)).json
    prompt, new = answer["prompt_token_ids"], answer["choices"][0]["token_ids"]
    assert (len(prompt), len(new)) == (answer["usage"]["prompt_tokens"], 6)
    events = (await chat(server, stream=True, **fields)).events[:-1]
    assert events[0]["prompt_token_ids"] == prompt
    assert [token for event in events for token in event["choices"][0].get("token_ids", ())] == new
    plain = (await server.complete(prompt, **fields)).json["choices"][0]
    assert (plain["prompt_token_ids"], plain["token_ids"]) == (prompt, new)
    events = (await server.complete(prompt, stream=True, n=2, **fields)).events[:-1]
    for number in (0, 1):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == number]
        assert [choice["prompt_token_ids"] for choice in mine if "prompt_token_ids" in choice] == [prompt]
        assert [token for choice in mine for token in choice["token_ids"]] == new


async def test_special_tokens_can_be_kept_in_the_text(server: LiveServer) -> None:
    bias = {"logit_bias": {"0": 100}, "max_tokens": 2}
    assert (await server.complete("the quick", **bias)).text == ""
    assert (await server.complete("the quick", skip_special_tokens=False, **bias)).text == "<s><s>"
