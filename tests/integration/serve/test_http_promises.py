"""Promises that hold for all routes together: one semaphore, and one form of every refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tandem_serve.config import ConfigFile, ServeConfig
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.service import Status
from tests.unit.serve import tiny
from tests.unit.serve.live import Answer, LiveServer, live_server

pytestmark = pytest.mark.integration

PROMPT = "the quick brown fox"
CHAT = {"messages": [{"role": "user", "content": PROMPT}]}
JSON = {"content-type": "application/json"}


async def test_s1_07_one_semaphore_holds_for_all_routes_and_is_1_unless_said(
    endless: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = ServeConfig(ConfigFile()).occupancy_semaphore
    async with live_server(tiny.settings(Path("x"), max_num_seqs=default), endless) as server:
        seen: set[int] = set()
        forward = server.core.engine.runner.forward

        def watched(plan: Any, *others: Any) -> Any:
            seen.add(len({chunk.sequence.seq_id for chunk in plan}))
            return forward(plan, *others)

        monkeypatch.setattr(server.core.engine.runner, "forward", watched)
        answers = await asyncio.gather(
            server.post("/generate", {"prompt": PROMPT, "max_new_tokens": 9, "num_return_sequences": 2}),
            server.complete(PROMPT, max_tokens=9),
            server.complete(PROMPT, max_tokens=9, stream=True),
            server.post("/v1/chat/completions", {**CHAT, "max_tokens": 9}),
            server.post("/v1/chat/completions", {**CHAT, "max_tokens": 9, "stream": True, "n": 2}),
        )
        assert [answer.status for answer in answers] == [200] * 5
        assert server.stats.generated_tokens == 7 * 9
    assert seen == {1}


async def _loading(llama: LoadedModel, _: Path) -> list[Answer]:
    async with live_server(tiny.settings(Path("x")), llama, attach=False) as server:
        return [await server.complete(PROMPT)]


async def _draining(llama: LoadedModel, _: Path) -> list[Answer]:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        server.service.status = Status.DRAINING
        return [await server.complete(PROMPT), await server.post("/generate", {"prompt": PROMPT})]


async def _stuck(llama: LoadedModel, _: Path) -> list[Answer]:
    async with live_server(tiny.settings(Path("x")), llama) as server:
        server.service.fail("a step has taken 301 s")
        return [await server.complete(PROMPT)]


async def _without_key(llama: LoadedModel, directory: Path) -> list[Answer]:
    keys = directory / "keys"
    keys.write_text("sk-one\n")
    async with live_server(tiny.settings(Path("x"), api_key_file=keys), llama) as server:
        return [await server.complete(PROMPT)]


async def _late_body(llama: LoadedModel, _: Path) -> list[Answer]:
    async def never() -> Any:
        yield b'{"prompt"'
        await asyncio.Event().wait()

    async with live_server(tiny.settings(Path("x"), client_seconds=0.2), llama) as server:
        return [await server.request("POST", "/v1/completions", data=never(), headers=JSON)]


async def _full(llama: LoadedModel, _: Path) -> list[Answer]:
    settings = tiny.settings(Path("x"), max_num_seqs=1, generation={"MAX_QUEUE": 1})
    async with live_server(settings, llama) as server:
        asked = [server.complete(PROMPT, max_tokens=200, ignore_eos=True) for _ in range(5)]
        return [answer for answer in await asyncio.gather(*asked) if answer.status != 200]


async def _too_late(llama: LoadedModel, _: Path) -> list[Answer]:
    live: list[LiveServer] = []

    def a_second_per_token() -> float:
        return float(live[0].stats.generated_tokens) if live else 0.0

    settings = tiny.settings(Path("x"), generation={"TIMEOUT_SECONDS": 3})
    async with live_server(settings, llama, clock=a_second_per_token) as server:
        live.append(server)
        return [await server.complete(PROMPT, max_tokens=100, ignore_eos=True)]


@pytest.mark.parametrize(
    ("refuse", "status"),
    [
        (_without_key, 401),
        (_late_body, 408),
        (_full, 429),
        (_loading, 503),
        (_draining, 503),
        (_stuck, 503),
        (_too_late, 504),
    ],
)
async def test_s1_27_every_refusal_says_what_it_is_and_which_request_it_was(
    refuse: Callable[[LoadedModel, Path], Awaitable[list[Answer]]], status: int, llama: LoadedModel, tmp_path: Path
) -> None:
    answers = await refuse(llama, tmp_path)
    assert answers
    for answer in answers:
        assert answer.status == status
        assert all(answer.error[name] for name in ("type", "message", "code", "request_id"))
        assert answer.error["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.body.decode()
        if status in (429, 503):
            assert int(answer.headers["retry-after"]) >= 1
