"""Clients come, leave, run out of time and find the queue full, in any order: over HTTP every answer is right or a
clear refusal, and nothing is held in the end.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.types import SequenceRequest
from tests.unit.serve import tiny
from tests.unit.serve.handoffs import Clock
from tests.unit.serve.live import LiveServer, eventually, live_server

pytestmark = pytest.mark.integration

RUNNING, QUEUE, CAPACITY, SECONDS = 2, 3, 192, 5
MOST_NEW = 12
LENGTHS = (3, 20, 40, 60)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(2, tiny.VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def generated(llama_dir: Path) -> list[list[int]]:
    """What `generate()` continues each prompt with."""
    return tiny.generated(llama_dir, prompts(), new_tokens=MOST_NEW)


class Paced(ModelRunner):
    """The real one; it takes as many steps as it is told, and remembers how many sequences ran at most."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.most = self.taken = self.allowed = 0
        self._steps = threading.Semaphore(0)
        self._free = False

    def allow(self, steps: int) -> None:
        self.allowed += steps
        self._steps.release(steps)

    def let_go(self) -> None:
        """From now on it does not wait."""
        self._free = True
        self._steps.release()

    def forward(self, plan: Any, rows: list[int], memory: Any) -> torch.Tensor:
        if not self._free:
            self._steps.acquire()
            self.taken += 1
        self.most = max(self.most, len({chunk.sequence.seq_id for chunk in plan}))
        return super().forward(plan, rows, memory)


@dataclass
class Client:
    """A request, and what has come of it."""

    prompt: int
    new: int
    stream: bool
    came: float
    status: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    error: dict[str, Any] | None = None
    task: asyncio.Task[None] | None = None

    async def ask(self, server: LiveServer) -> None:
        body = {
            "prompt": prompts()[self.prompt],
            "max_tokens": self.new,
            "temperature": 0,
            "stream": self.stream,
            "return_token_ids": True,
        }
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        async with server.session.post(url, json=body) as answer:
            self.status = answer.status
            if not (self.stream and answer.status == 200):
                self.take(await answer.json())
                return
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    self.take(json.loads(line[6:]))

    def take(self, body: dict[str, Any]) -> None:
        self.error = body.get("error")
        for choice in body.get("choices", ()):
            self.tokens += choice.get("token_ids") or ()
            self.finish = choice["finish_reason"]

    def check(self, generated: list[list[int]], *, now: float) -> None:
        """Its tokens are the beginning of what `generate()` gives, and its end is one of those that are allowed."""
        assert self.tokens == generated[self.prompt][: len(self.tokens)]
        if self.task is None or self.task.cancelled():
            return  # it left
        if self.error is None:
            assert (self.status, self.finish, len(self.tokens)) == (200, "length", self.new)
        elif self.error["code"] == "queue_full":
            assert (self.status, self.tokens) == (429, [])
        else:
            assert (self.error["code"], self.status in (504, 200)) == ("generation_timeout", True)
            assert now >= self.came + SECONDS


@dataclass
class History:
    """A server, its clock, the pace of its model, and its clients."""

    server: LiveServer
    clock: Clock
    model: Paced
    generated: list[list[int]]
    clients: list[Client] = field(default_factory=list)
    accepted: int = 0

    def __post_init__(self) -> None:
        engine = self.server.running.engine
        submit = engine.submit

        def counted(request: SequenceRequest) -> None:
            submit(request)
            self.accepted += 1

        engine.submit = counted  # type: ignore[method-assign]

    @property
    def in_flight(self) -> int:
        return self.server.running.backend.client.in_flight

    @property
    def waiting(self) -> list[asyncio.Task[None]]:
        """The requests of clients that have no answer yet."""
        return [client.task for client in self.clients if client.task is not None and not client.task.done()]

    async def arrive(self, choice: int) -> None:
        """A client whose request is accepted or refused, before anything else happens."""
        client = Client(
            prompt=choice % len(LENGTHS),
            new=1 + choice // 4 % MOST_NEW,
            stream=choice % 3 == 0,
            came=self.clock.now,
        )
        before = self.accepted
        client.task = task = asyncio.create_task(client.ask(self.server))
        self.clients.append(client)
        await eventually(lambda: task.done() or self.accepted > before)

    async def leave(self, choice: int) -> None:
        """One who waits hangs up."""
        if self.waiting:
            self.waiting[choice % len(self.waiting)].cancel()
            await asyncio.sleep(0)

    async def goes_on(self, choice: int) -> None:
        """Until the engine has taken some steps, or has nothing to do."""
        self.model.allow(1 + choice % 4)
        await eventually(lambda: self.model.taken == self.model.allowed or not self.in_flight)

    async def late(self, choice: int) -> None:
        self.clock.now += 1 + choice % 3

    async def end(self) -> None:
        """Everyone has an answer, nothing is held, and the next one is right."""
        self.model.let_go()
        async with asyncio.timeout(120):
            ended = await asyncio.gather(*self.waiting, return_exceptions=True)
        assert not [one for one in ended if isinstance(one, Exception)]
        for client in self.clients:
            client.check(self.generated, now=self.clock.now)
        await eventually(lambda: not self.in_flight)
        await eventually(lambda: self.server.stats.running + self.server.stats.waiting == 0)
        assert self.server.core.engine.scheduler.blocks.used == 0
        assert self.model.most <= RUNNING
        last = Client(prompt=1, new=MOST_NEW, stream=False, came=self.clock.now)
        last.task = asyncio.create_task(last.ask(self.server))
        await last.task
        assert last.tokens == self.generated[1]


async def live(model: LoadedModel, generated: list[list[int]], events: list[tuple[str, int]]) -> None:
    """One history."""
    clock = Clock()
    paced = Paced(model.runner.model)
    model = replace(model, eos_ids=frozenset(), runner=paced)
    limits = {"TIMEOUT_SECONDS": SECONDS, "MAX_QUEUE": QUEUE}
    chosen = tiny.settings(Path("x"), max_num_seqs=RUNNING, kv_cache_tokens=CAPACITY, generation=limits)
    async with live_server(chosen, model, clock=clock) as server:
        history = History(server, clock, paced, generated)
        does = {"arrive": history.arrive, "leave": history.leave, "late": history.late, "goes on": history.goes_on}
        try:
            for kind, choice in events:
                await does[kind](choice)
            await history.end()
        finally:
            paced.let_go()


NUMBER = st.integers(0, 1000)
EVENTS = st.tuples(
    st.sampled_from(["arrive", "arrive", "arrive", "arrive", "leave", "late", "goes on", "goes on"]), NUMBER
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=25, max_size=60))
def test_every_client_gets_the_tokens_of_generate_or_a_clear_refusal_and_nothing_is_held(
    llama: LoadedModel, generated: list[list[int]], events: list[tuple[str, int]]
) -> None:
    asyncio.run(live(llama, generated, events))
