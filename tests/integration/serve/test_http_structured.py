"""`response_format`: answers that follow a schema, and schemas that are refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.handoffs import TEXT, offer, pair
from tests.unit.serve.live import Answer, LiveServer, live_server

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Rome"]}, "degrees": {"type": "integer", "minimum": -40, "maximum": 60}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), llama) as live:
        yield live


def wanted(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}}


async def ask(server: LiveServer, **fields: Any) -> Answer:
    body = {"messages": [{"role": "user", "content": "the quick"}], "max_tokens": 200, "seed": 1}
    return await server.post("/v1/chat/completions", body | fields)


def choices(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 200, answer.body
    return [(choice["message"]["content"], choice["finish_reason"]) for choice in answer.json["choices"]]


async def test_an_answer_follows_its_schema(server: LiveServer) -> None:
    for text, finish in choices(await ask(server, n=3, **wanted(SCHEMA, strict=True))):
        jsonschema.validate(json.loads(text), SCHEMA)
        assert finish == "stop"


async def test_a_greedy_answer_follows_it_as_well(server: LiveServer) -> None:
    ((text, finish),) = choices(await ask(server, temperature=0, **wanted(SCHEMA)))
    jsonschema.validate(json.loads(text), SCHEMA)
    assert finish == "stop"


async def test_json_object_gives_an_object_or_reaches_the_limit(server: LiveServer) -> None:
    for text, finish in choices(await ask(server, n=3, max_tokens=80, response_format={"type": "json_object"})):
        assert text.startswith("{")
        assert finish == "length" or isinstance(json.loads(text), dict)


async def test_completions_take_it_too(server: LiveServer) -> None:
    answer = await server.complete("the quick", max_tokens=100, **wanted(SCHEMA))
    jsonschema.validate(json.loads(answer.text), SCHEMA)


async def test_a_stream_carries_the_same_text(server: LiveServer) -> None:
    whole = choices(await ask(server, **wanted(SCHEMA)))[0][0]
    answer = await ask(server, stream=True, **wanted(SCHEMA))
    deltas = [event["choices"][0]["delta"] for event in answer.events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


async def test_a_limit_cuts_it_and_says_so(server: LiveServer) -> None:
    ((text, finish),) = choices(await ask(server, **wanted(SCHEMA) | {"max_tokens": 5}))
    assert finish == "length"
    assert text.startswith("{")


async def test_a_stop_string_ends_it(server: LiveServer) -> None:
    ((text, finish),) = choices(await ask(server, stop='"degrees"', **wanted(SCHEMA)))
    assert finish == "stop"
    assert "city" in text
    assert "degrees" not in text


async def test_asking_for_more_tokens_than_the_schema_has_room_for_ends_it_all_the_same(server: LiveServer) -> None:
    schema = {"enum": ["Ulm"]}
    ((text, finish),) = choices(await ask(server, min_tokens=100, ignore_eos=True, **wanted(schema)))
    assert (json.loads(text), finish) == ("Ulm", "stop")


async def test_biases_and_penalties_cannot_break_it(server: LiveServer) -> None:
    bias = {str(token): 100 for token in range(50, 60)}
    answer = await ask(server, logit_bias=bias, repetition_penalty=50, top_k=3, top_p=0.1, min_p=0.5, **wanted(SCHEMA))
    jsonschema.validate(json.loads(choices(answer)[0][0]), SCHEMA)


async def test_reported_log_probabilities_stay_those_of_the_model(server: LiveServer) -> None:
    answer = await ask(server, logprobs=True, top_logprobs=1, **wanted({"enum": ["Ulm"]}))
    entries = answer.json["choices"][0]["logprobs"]["content"]
    assert all(entry["logprob"] <= entry["top_logprobs"][0]["logprob"] for entry in entries)
    assert any(entry["logprob"] < entry["top_logprobs"][0]["logprob"] for entry in entries)


async def test_requests_without_it_beside_it_are_as_always(server: LiveServer) -> None:
    alone = (await server.complete("the quick", max_tokens=20, seed=3, temperature=1)).text
    beside, *_ = await asyncio.gather(
        server.complete("the quick", max_tokens=20, seed=3, temperature=1),
        *(ask(server, seed=seed, **wanted(SCHEMA)) for seed in range(2)),
    )
    assert beside.text == alone


DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(150):
    DEEP = {"properties": {"x": DEEP}}
DOUBLING = {
    f"d{i}": {
        "anyOf": [
            {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"properties": {f"x{i}": {}}}]},
            {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"properties": {f"y{i}": {}}}]},
        ]
    }
    for i in range(18)
}


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    [
        ({"properties": {"a": {"items": [{}, {"not": {}}]}}}, ".properties.a.items[1].not", "Unimplemented"),
        ({"properties": {"a": {"type": "text"}}}, ".properties.a.type", "Invalid type"),
        ({"anyOf": [{"$ref": "#/$defs/x"}]}, ".anyOf[0].$ref", "does not exist"),
        ({"$ref": "http://127.0.0.1:1/x.json"}, ".$ref", "not fetch"),
        ({"type": "string", "pattern": "(?=a)b"}, "", "look-ahead"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "", "minimum"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "", "no text"),
        (DEEP, "", "recursion"),
        ({"items": {"pattern": "(a|b)*" * 4000}}, ".items.pattern", "20000"),
        ({"$defs": {**DOUBLING, "d18": {}}, "$ref": "#/$defs/d0"}, "", "too large"),
        ({"enum": ["x" * 500 + str(i) for i in range(1000)]}, "", "500000 is the most"),
    ],
)
async def test_a_schema_that_cannot_be_followed_is_a_400_that_names_the_place(
    server: LiveServer, schema: dict[str, Any], place: str, reason: str
) -> None:
    answer = await ask(server, **wanted(schema))
    assert (answer.status, answer.error["code"]) == (400, "invalid_schema")
    assert answer.error["param"] == f"response_format.json_schema.schema{place}"
    assert reason in answer.error["message"]


async def test_a_schema_that_runs_out_of_work_later_ends_its_own_request_only(server: LiveServer) -> None:
    bomb = {"type": "string", "pattern": r"^(\p{L}{1,500}\w{1,500}){1,100}$"}
    hard, easy = await asyncio.gather(ask(server, **wanted(bomb) | {"max_tokens": 40}), ask(server, **wanted(SCHEMA)))
    assert hard.status in (200, 500)
    jsonschema.validate(json.loads(choices(easy)[0][0]), SCHEMA)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}, "response_format.json_schema.schema"),
    ],
)
async def test_a_wrong_format_is_a_400_that_names_the_field(server: LiveServer, value: Any, param: str) -> None:
    answer = await ask(server, response_format=value)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_it_holds_in_disaggregated_mode_from_the_first_token(llama: LoadedModel) -> None:
    async with pair(llama) as (prefill, decode):
        first = {"prompt": TEXT, "temperature": 0, "max_tokens": 1, **wanted(SCHEMA)}
        assert (await prefill.post("/v1/completions", first)).text == "{"
        params = await offer(prefill, **wanted(SCHEMA))
        answer = await decode.complete(TEXT, max_tokens=100, kv_transfer_params=params, **wanted(SCHEMA))
        assert decode.stats.prompt_tokens_transferred > 0
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert answer.json["choices"][0]["finish_reason"] == "stop"
