"""A prompt of 2,000 tokens beside a running stream: the stream gets a token in every step, and both are right."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model
from tests.unit.serve.live import eventually, live_server

pytestmark = pytest.mark.integration

LONG = [2 + number * 7 % (tiny.VOCABULARY - 2) for number in range(2000)]
STEP = 256


async def test_a_long_prompt_does_not_stall_a_running_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(load_model(tiny.save_llama(tmp_path, max_position_embeddings=4096)), eos_ids=frozenset())
    settings = tiny.settings(Path("x"), max_num_batched_tokens=STEP, prefix_reuse=False)
    async with live_server(settings, model) as server:
        alone = [
            (await server.complete("the quick", max_tokens=400)).text,
            (await server.complete(LONG, max_tokens=20)).text,
        ]
        steps: list[dict[int, int]] = []
        arrived = threading.Event()
        forward = server.core.engine.runner.forward

        def watched(plan: Any, *others: Any) -> Any:
            if len(steps) == 5:
                arrived.wait(60)
            steps.append({len(chunk.sequence.request.prompt): chunk.count for chunk in plan})
            return forward(plan, *others)

        monkeypatch.setattr(server.core.engine.runner, "forward", watched)
        running = asyncio.create_task(server.complete("the quick", max_tokens=400, stream=True))
        await eventually(lambda: len(steps) == 5)
        long = asyncio.create_task(server.complete(LONG, max_tokens=20))
        await eventually(lambda: server.running.backend.client.in_flight == 2)
        arrived.set()
        streamed = "".join(event["choices"][0]["text"] for event in (await running).events[:-1])
        assert [streamed, (await long).text] == alone
    parts = [step for step in steps if step.get(len(LONG), 0) > 1]
    assert sum(step[len(LONG)] for step in parts) == len(LONG)
    assert len(parts) >= len(LONG) / STEP
    assert all(len(step) == 2 and sum(step.values()) <= STEP for step in parts)
