"""A router that asks for API keys: who is served, who is not, and where no key is ever seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tandem.gateway.fleet import Role
from tests.unit.gateway.conftest import Router
from tests.unit.gateway.workers import Worker

pytestmark = pytest.mark.integration

KEY = "sk-hunter2"


@pytest.fixture
async def worker(start_worker: Callable[..., Awaitable[Worker]]) -> Worker:
    return await start_worker("w-0", Role.AGG)


@pytest.fixture
async def router(worker: Worker, start_router: Callable[..., Any], tmp_path: Path) -> Router:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\nsk-other\n")
    started: Router = await start_router(worker, api_key_file=file)
    return started


def bearer(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


async def test_a_key_opens_and_stays_with_the_router(router: Router, worker: Worker) -> None:
    answer, _ = await router.complete("hello")
    assert answer.status == 401
    body = json.dumps({"model": "m", "prompt": "hello"}).encode()
    answer, _ = await router.post("/v1/completions", body, **bearer(KEY))
    assert answer.status == 200
    assert [name for name in worker.seen[-1].headers if name.lower() == "authorization"] == []
    assert len(worker.seen) == 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": f"Basic {KEY}"}])
async def test_s1_30_others_get_a_401_in_the_form_of_openai(router: Router, headers: dict[str, str]) -> None:
    answer, body = await router.post("/v1/completions", {"prompt": "x"}, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "invalid_api_key")
    assert body["error"]["request_id"] == answer.headers["X-Request-Id"]


async def test_every_route_to_a_worker_asks_and_probes_metrics_and_loading_do_not(router: Router) -> None:
    for path in ("/v1/models", "/v1/models/m", "/model-info", "/tokenizer_info"):
        async with router.client.get(router.url + path) as answer:
            assert answer.status == 401
    for path in ("/v1/chat/completions", "/generate", "/tokenize", "/detokenize"):
        assert (await router.post(path, {}))[0].status == 401
    for path in ("/livez", "/readyz", "/metrics", "/loading"):
        async with router.client.get(router.url + path) as answer:
            assert answer.status == 200


async def test_a_large_body_without_a_key_gets_its_answer_and_is_not_kept(router: Router) -> None:
    answer, _ = await router.post("/v1/completions", b" " * 4_000_000)
    assert answer.status == 401
    assert (await router.post("/v1/completions", {"prompt": "x"}, **bearer(KEY)))[0].status == 200


async def test_who_waits_for_leave_to_send_is_answered_without_it(router: Router) -> None:
    answer, _ = await router.post("/v1/completions", {"prompt": "x"}, expect100=True)
    assert answer.status == 401


async def test_no_key_is_written_anywhere(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await router.post("/v1/completions", {"prompt": "x"}, **bearer(KEY))
        await router.post("/v1/completions", {"prompt": "x"}, **bearer("sk-hunter3"))
    served, refused = await router.audited(2)
    assert (served["outcome"], refused["outcome"], refused["status"]) == ("ok", "invalid_api_key", 401)
    async with router.client.get(router.url + "/metrics") as answer:
        metrics = await answer.text()
    assert 'outcome="invalid_api_key"' in metrics
    assert "hunter" not in metrics + json.dumps(router.audit) + caplog.text


async def test_the_client_of_openai_knows_what_is_wrong(router: Router) -> None:
    common = {"base_url": router.url + "/v1", "max_retries": 0}
    async with openai.AsyncOpenAI(api_key="sk-wrong", **common) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.completions.create(model="m", prompt="x")
    assert refused.value.code == "invalid_api_key"
    async with openai.AsyncOpenAI(api_key=KEY, **common) as client:
        assert (await client.models.with_raw_response.list()).status_code == 200
