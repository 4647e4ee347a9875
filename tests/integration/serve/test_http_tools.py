"""`tools` and `tool_choice` on a real server: calls that are always valid, and conversations that hold calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from transformers import AutoTokenizer

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.live import Answer, LiveServer, live_server

_MESSAGES = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}{% endfor %}assistant:"
)
TEMPLATES = {
    "hermes": "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{#<tool_call>#}" + _MESSAGES,
    "mistral": "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{#[TOOL_CALLS]#}" + _MESSAGES,
    "llama3_json": '{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{# "parameters": #}' + _MESSAGES,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "description": "d", **more}
    return {"type": "function", "function": function | ({} if parameters is None else {"parameters": parameters})}


TOOLS = [tool("weather", WEATHER), tool("odd.name/1 é", None)]
MESSAGES = [{"role": "user", "content": "the quick"}]


def with_template(model: LoadedModel, directory: Path, template: str, *, special: tuple[str, ...] = ()) -> LoadedModel:
    """The same model with another chat template, some of whose marks may be special tokens."""
    tiny.save_tokenizer(directory, chat_template=template)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for token in special:  # in the place of an ordinary token: the model has no more of them
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    return replace(model, tokenizer=tokenizer)


pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveServer]:
    model = with_template(llama, tmp_path_factory.mktemp("hermes"), TEMPLATES["hermes"])
    async with live_server(tiny.settings(Path("x")), model) as live:
        yield live


async def ask(server: LiveServer, **fields: Any) -> Answer:
    body = {"messages": MESSAGES, "max_tokens": 400, "seed": 1, "tools": TOOLS, "parallel_tool_calls": False}
    return await server.post("/v1/chat/completions", body | fields)


def called(answer: Answer) -> list[tuple[str, Any]]:
    assert answer.status == 200, answer.body
    (choice,) = answer.json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert all(call["type"] == "function" and call["id"] for call in calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def check(name: str, arguments: Any) -> None:
    jsonschema.validate(arguments, {"weather": WEATHER, "odd.name/1 é": NOTHING}[name])


@pytest.mark.parametrize("form", sorted(TEMPLATES))
async def test_a_required_call_is_valid_in_every_form_whole_and_streamed(
    llama: LoadedModel, tmp_path: Path, form: str
) -> None:
    async with live_server(tiny.settings(Path("x")), with_template(llama, tmp_path, TEMPLATES[form])) as server:
        whole = called(await ask(server, tool_choice="required"))
        events = (await ask(server, tool_choice="required", stream=True)).events
    for name, arguments in whole:
        check(name, arguments)
    assert events.pop() == "[DONE]"
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    first, *rest = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert first["index"] == 0
    assert first["id"]
    arguments = first["function"]["arguments"] + "".join(one["function"]["arguments"] for one in rest)
    assert [(first["function"]["name"], json.loads(arguments))] == whole
    assert not any(event["choices"][0]["delta"].get("content") for event in events)


async def test_a_named_function_is_the_one_that_is_called(server: LiveServer) -> None:
    for name in ("weather", "odd.name/1 é"):
        answer = await ask(server, tool_choice={"type": "function", "function": {"name": name}})
        assert [found for found, _ in called(answer)] == [name]


async def test_a_model_with_marks_that_are_special_tokens(llama: LoadedModel, tmp_path: Path) -> None:
    model = with_template(llama, tmp_path, TEMPLATES["mistral"])
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    mark = model.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    async with live_server(tiny.settings(Path("x")), replace(model, vocab_size=max(model.vocab_size, mark + 1))) as one:
        codec = one.core.codec
    assert codec.special_token("[TOOL_CALLS]") == mark
    assert codec.special_token("<s>") == 0
    assert codec.special_token("the") is None


async def test_several_calls_at_once(server: LiveServer) -> None:
    answer = await ask(server, tools=[tool("f")], tool_choice="required", parallel_tool_calls=True, n=4, max_tokens=120)
    calls = [choice["message"]["tool_calls"] for choice in answer.json["choices"]]
    assert any(len(one) > 1 for one in calls)
    for one in calls:
        assert len({call["id"] for call in one}) == len(one)


async def test_text_stays_text_when_a_call_is_free(server: LiveServer) -> None:
    for strict in (False, True):
        tools = [tool("weather", WEATHER, strict=strict)]
        choice = (await ask(server, tools=tools, temperature=0, max_tokens=20)).json["choices"][0]
        assert "tool_calls" not in choice["message"]
        assert choice["message"]["content"]


async def test_tools_reach_the_prompt_unless_none_may_be_called(server: LiveServer) -> None:
    async def prompt_tokens(**fields: Any) -> int:
        return (await ask(server, max_tokens=1, **fields)).json["usage"]["prompt_tokens"]

    without = await prompt_tokens(tools=[])
    assert await prompt_tokens() > without
    assert await prompt_tokens(tool_choice="none") == without


async def test_calls_and_their_results_reach_the_template(server: LiveServer) -> None:
    def conversation(arguments: Any) -> list[dict[str, Any]]:
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        return [
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "warm"},
        ]

    answer = await ask(server, messages=conversation('{"city": "Ulm"}'), tools=[], max_tokens=1, return_token_ids=True)
    ids = answer.json["prompt_token_ids"]
    text = (await server.post("/detokenize", {"tokens": ids})).json["prompt"]
    assert text == "<s>user: the quick<s>assistant: weather(Ulm)<s>tool: warmassistant:"
    for wrong in ("no json", "[1]"):
        refused = await ask(server, messages=conversation(wrong))
        assert refused.error["param"] == "messages[1].tool_calls[0].arguments"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice.function.name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name"),
        ({"tools": [tool("a", {"type": "array"})]}, "tools[0].function.parameters.type"),
        (
            {"tools": [tool("a"), tool("b", {"properties": {"x": {"not": {}}}})], "tool_choice": "required"},
            "tools[1].function.parameters.properties.x.not",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [tool("\ud800")]}, "tools[0].function.name"),
    ],
)
async def test_what_cannot_be_called_is_a_400_that_names_the_place(
    server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    answer = await ask(server, **fields)
    assert (answer.status, answer.error["param"]) == (400, param), answer.error


async def test_a_thousand_tools_are_no_trouble(server: LiveServer) -> None:
    tools = [tool(f"f{number}", WEATHER) for number in range(1000)]
    named = {"type": "function", "function": {"name": "f999"}}
    message = [{"role": "user", "content": "x"}]
    answer = await ask(server, tools=tools, tool_choice=named, messages=message)
    assert answer.status == 413  # the prompt that they make is too long for a tiny model, which is said
    assert "tokens" in answer.error["message"]


async def test_a_template_without_tools_says_so(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        answer = await ask(server)
    assert answer.status == 400
    assert "does not know tools" in answer.error["message"]


async def test_a_form_that_the_template_does_not_tell_can_be_told(llama: LoadedModel, tmp_path: Path) -> None:
    model = with_template(llama, tmp_path, "{{ tools }}" + _MESSAGES)
    async with live_server(tiny.settings(Path("x")), model) as server:
        answer = await ask(server)
    assert "--tool-call-format" in answer.error["message"]
    async with live_server(tiny.settings(Path("x"), tool_call_format="hermes"), model) as server:
        assert called(await ask(server, tool_choice="required"))
