"""`/v1/completions` on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_serve.engine.loader import LoadedModel
from tests.unit.serve import tiny
from tests.unit.serve.live import LiveServer, eventually, live_server

PROMPT = "the quick brown fox"


@pytest.fixture
async def server(llama: LoadedModel) -> AsyncIterator[LiveServer]:
    async with live_server(tiny.settings(Path("x")), replace(llama, eos_ids=frozenset())) as live:
        yield live


async def test_an_answer_has_openais_form(server: LiveServer) -> None:
    answer = await server.complete(PROMPT, max_tokens=6, model="tiny")
    body = answer.json
    assert answer.status == 200
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == "tiny"
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    assert [choice | {"text": ""} for choice in body["choices"]] == [
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    ]


async def test_a_stream_carries_the_same_text_and_ends_with_done(server: LiveServer) -> None:
    whole = (await server.complete(PROMPT, max_tokens=30)).text
    answer = await server.complete(PROMPT, max_tokens=30, stream=True, stream_options={"include_usage": True, "x": 1})
    *chunks, usage, done = answer.events
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 30
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_prompts_may_be_texts_tokens_and_lists_of_both(server: LiveServer) -> None:
    codec = server.core.codec
    texts = [(await server.complete(text, max_tokens=5)).text for text in (PROMPT, "lazy dog")]
    ids = [list(codec.encode(text)) for text in (PROMPT, "lazy dog")]
    assert [c["text"] for c in (await server.complete([PROMPT, "lazy dog"], max_tokens=5)).json["choices"]] == texts
    assert (await server.complete(ids[0], max_tokens=5)).text == texts[0]
    many = (await server.complete(ids, max_tokens=5)).json
    assert [choice["text"] for choice in many["choices"]] == texts
    assert [choice["index"] for choice in many["choices"]] == [0, 1]


async def test_n_gives_n_choices_per_prompt_and_a_seed_gives_them_again(server: LiveServer) -> None:
    fields = {"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 8}
    first = (await server.complete([PROMPT, "dog"], **fields)).json["choices"]
    again = (await server.complete([PROMPT, "dog"], **fields)).json["choices"]
    assert [choice["text"] for choice in first] == [choice["text"] for choice in again]
    assert [choice["index"] for choice in first] == list(range(6))
    assert len({choice["text"] for choice in first}) > 3


async def test_echo_with_log_probabilities_scores_the_prompt(server: LiveServer) -> None:
    answer = await server.complete(PROMPT, max_tokens=1, echo=True, logprobs=1)
    choice = answer.json["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert logprobs["tokens"][:4] == ["the", " quick", " brown", " fox"]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"][:4] == [0, 3, 9, 15]
    assert len(logprobs["tokens"]) == 5
    only_prompt = await server.complete(PROMPT, max_tokens=0, echo=True, logprobs=1)
    assert only_prompt.json["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(
        logprobs["token_logprobs"][:4], abs=1e-4, nan_ok=True
    )


async def test_a_stop_string_is_held_back_in_streams(server: LiveServer) -> None:
    whole = (await server.complete(PROMPT, max_tokens=40)).text
    stop = whole[10:13]
    answer = await server.complete(PROMPT, max_tokens=40, stop=[stop], stream=True)
    chunks = answer.events[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole[: whole.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_tokenizer_that_knows_more_than_the_model_harms_only_who_uses_it(llama: LoadedModel) -> None:
    async with live_server(tiny.settings(Path("x")), replace(llama, vocab_size=50)) as server:
        answer = await server.complete("Hello there", max_tokens=2)
    assert answer.status == 400
    assert "the model has tokens 0 to 49" in answer.error["message"]


async def test_a_request_that_leaves_no_token_is_a_400(server: LiveServer) -> None:
    whole = list(range(tiny.VOCABULARY))
    answer = await server.complete(PROMPT, max_tokens=4, min_tokens=2, stop_token_ids=whole)
    assert answer.status == 400
    assert "no token is left to choose" in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"320": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"prompt": [[5] * 120] * 128, "echo": True, "logprobs": 20}, "logprobs"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"best_of": 4}, "best_of"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["a", ""]}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [5, 320]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
    ],
)
async def test_what_is_not_served_is_a_400_that_names_the_field(server: LiveServer, fields: dict, param: str) -> None:
    answer = await server.post("/v1/completions", {"prompt": PROMPT, **fields})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert param in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"


async def test_a_bias_decides_what_comes(server: LiveServer) -> None:
    answer = await server.complete(PROMPT, max_tokens=4, logit_bias={"50": 100.0}, logprobs=0)
    assert len(set(answer.json["choices"][0]["logprobs"]["tokens"])) == 1
    banned = await server.complete(PROMPT, max_tokens=4, frequency_penalty=2, presence_penalty=2, min_p=0.1, seed=1)
    assert banned.status == 200


async def test_unknown_fields_and_neutral_values_are_ignored(server: LiveServer) -> None:
    neutral = {"tools": [], "tool_choice": "auto", "presence_penalty": 0.0, "repetition_penalty": 1.0, "best_of": 1}
    answer = await server.complete(
        PROMPT, max_tokens=1, user="me", whatever={"a": 1}, response_format={"type": "text"}, **neutral
    )
    assert answer.status == 200


async def test_another_model_is_a_404(server: LiveServer) -> None:
    answer = await server.complete(PROMPT, model="other")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


async def test_the_request_id_is_echoed_or_made(server: LiveServer) -> None:
    given = await server.complete(PROMPT, max_tokens=1, n=0, model="x")
    assert given.headers["x-request-id"] == given.error["request_id"] != ""
    echoed = await server.post("/v1/completions", {"prompt": PROMPT}, headers={"X-Request-Id": "abc-1"})
    assert echoed.headers["x-request-id"] == "abc-1"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_cancels_its_generation(
    server: LiveServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, cancelled = threading.Semaphore(5), asyncio.Event()
    forward, cancel = server.core.engine.runner.forward, server.running.engine.cancel

    def five_steps_then_on(*arguments):
        steps.acquire(timeout=60)
        return forward(*arguments)

    def cancel_and_go_on(seq_id: int) -> None:
        cancel(seq_id)
        cancelled.set()
        steps.release(1000)

    monkeypatch.setattr(server.core.engine.runner, "forward", five_steps_then_on)
    monkeypatch.setattr(server.running.engine, "cancel", cancel_and_go_on)
    body = {"prompt": PROMPT, "max_tokens": 512, "stream": stream}
    asking = asyncio.create_task(server.post("/v1/completions", body))
    await eventually(lambda: server.stats.generated_tokens > 0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(30):
        await cancelled.wait()
        await server.running.backend.client.drained()
    assert server.stats.finished == {"cancelled": 1}
    assert server.stats.kv_used_tokens == 0
    assert server.stats.generated_tokens < 10


async def test_many_at_once_get_their_own_text(server: LiveServer) -> None:
    prompts = [tiny.TEXT[start : start + 20] for start in range(20)]
    alone = [(await server.complete(prompt, max_tokens=10)).text for prompt in prompts]
    together = await asyncio.gather(*(server.complete(prompt, max_tokens=10) for prompt in prompts))
    assert [answer.text for answer in together] == alone
    assert len(set(alone)) > 10


async def test_special_tokens_that_the_text_lacks_take_no_place_in_it(server: LiveServer) -> None:
    ids = [0, *(await server.post("/tokenize", {"prompt": "the quick"})).json["tokens"]]
    fields = {"max_tokens": 1, "echo": True, "logprobs": 1}
    without = (await server.complete(ids, **fields)).json["choices"][0]
    assert without["text"].startswith("the quick")
    assert without["logprobs"]["text_offset"] == [0, 0, 3, 9]
    kept = (await server.complete(ids, skip_special_tokens=False, **fields)).json["choices"][0]
    assert kept["text"].startswith("<s>the quick")
    assert kept["logprobs"]["text_offset"] == [0, 3, 6, 12]


async def test_another_way_to_ask_for_structure_is_pointed_to_this_one(server: LiveServer) -> None:
    answer = await server.complete("the", guided_json={"type": "object"})
    assert answer.error["message"] == "`guided_json` is not supported by this server; response_format is"
