"""TensorRT-LLM apart: the context worker answers first, the generation worker goes on with what it said."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from tandem.gateway.fleet import Role
from tests.unit.gateway.workers import prompt_of, text_for, text_of

PARAMS = {"first_gen_tokens": [42], "ctx_request_id": 7, "encoded_opaque_state": "c3RhdGU=", "draft_tokens": None}
FORBIDDEN_IN_BOTH = ("kv_transfer_params", "bootstrap_room")


class Contexts:
    """What context workers keep, by request id; bodies are read as the servers' strict schemas read them."""

    def __init__(self):
        self.kept = {}
        self.finish = "length"
        self.changes = {}

    async def serve(self, worker, seen):
        assert not any(key in seen.body for key in FORBIDDEN_IN_BOTH)
        params = seen.body.get("disaggregated_params")
        if worker.role is Role.PREFILL:
            assert params == {"request_type": "context_only"}
            assert seen.body["stream"] is False
            assert "stream_options" not in seen.body
            return self._context(seen)
        if params is None:
            return await self._answer(seen, text_for(prompt_of(seen.body)), local=True)
        assert params["request_type"] == "generation_only"
        ids = seen.body["prompt_token_ids"] if "messages" in seen.body else seen.body["prompt"]
        assert ids == [1, 2, 3]
        return await self._answer(seen, text_for(self.kept.pop(params["ctx_request_id"])), local=False)

    def _context(self, seen):
        identity = len(self.kept) + 100
        self.kept[identity] = prompt_of(seen.body)
        params = {**PARAMS, "request_type": "context_only", "ctx_request_id": identity, **self.changes}
        params = {key: value for key, value in params.items() if value is not ...}
        choice = {"text": "x", "finish_reason": self.finish, "disaggregated_params": params}
        return web.json_response({"choices": [choice], "prompt_token_ids": [1, 2, 3]})

    async def _answer(self, seen, text, *, local):
        if not seen.body.get("stream"):
            return web.json_response({"choices": [{"text": text}], "local": local})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(seen.request)
        await response.write(f"data: {json.dumps({'choices': [{'text': text}]})}\n\ndata: [DONE]\n\n".encode())
        return response


@pytest.fixture
async def contexts(start_duo):
    async def start(**options):
        duo = await start_duo(backend="trtllm", **options)
        kept = Contexts()
        for worker in duo.all:
            worker.handler = kept.serve
        return duo, kept

    return start


async def test_generation_gets_the_clients_body_with_what_context_said(contexts):
    duo, _ = await contexts(prefills=1, decodes=1)

    response, body = await duo.router.complete("hi", max_tokens=7, temperature=0.5)

    assert response.status == 200
    assert body == {"choices": [{"text": text_for("hi")}], "local": False}
    [decode] = duo.decodes[0].seen
    expected = {**PARAMS, "ctx_request_id": 100, "request_type": "generation_only"}
    assert decode.body == {
        "model": "m",
        "prompt": [1, 2, 3],
        "max_tokens": 7,
        "temperature": 0.5,
        "disaggregated_params": expected,
    }
    assert duo.prefills[0].seen[0].body["max_tokens"] == 7


async def test_a_chat_is_handed_off_with_its_token_ids(contexts):
    duo, _ = await contexts()
    chat = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "stream_options": {"include_usage": True}}

    _, raw = await duo.router.post("/v1/chat/completions", chat)

    assert text_of(raw) == text_for("hi")
    [decode] = duo.seen(Role.DECODE)
    assert decode.body["messages"] == chat["messages"]
    assert decode.body["prompt_token_ids"] == [1, 2, 3]
    assert decode.body["stream_options"] == {"include_usage": True}


async def test_a_request_that_ends_with_its_first_token_is_answered_by_a_plain_server(contexts):
    duo, kept = await contexts()
    kept.finish = "stop"

    _, body = await duo.router.complete("hi")

    assert body == {"choices": [{"text": text_for("hi")}], "local": True}


@pytest.mark.parametrize("changes", [{"ctx_request_id": ...}, {"first_gen_tokens": []}, {"first_gen_tokens": "x"}])
async def test_unusable_parameters_never_reach_generation(contexts, changes):
    duo, kept = await contexts()
    kept.changes = changes

    response, body = await duo.router.complete("hi")

    assert response.status == 200
    assert body["local"]
    assert all("disaggregated_params" not in seen.body for seen in duo.seen(Role.DECODE))


@pytest.mark.parametrize("fields", [{"n": 2}, {"prompt": ["a", "b"]}])
async def test_what_one_handoff_cannot_carry_is_computed_by_generation(contexts, fields):
    duo, _ = await contexts()

    response, body = await duo.router.post("/v1/completions", {"model": "m", "prompt": "hi", **fields})

    assert response.status == 200
    assert body["local"]
    assert duo.seen(Role.PREFILL) == []


async def test_parameters_of_the_client_never_reach_a_worker(contexts):
    duo, _ = await contexts(prefills=0)

    response, body = await duo.router.complete("hi", disaggregated_params={"request_type": "generation_only"})

    assert response.status == 200
    assert body["local"]
    assert "disaggregated_params" not in duo.seen(Role.DECODE)[0].body
