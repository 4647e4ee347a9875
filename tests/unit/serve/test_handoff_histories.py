"""A prefill and a decode engine, and everything between them that can go wrong at any moment, on a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_serve.backend import build_core
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.transfer import wire
from tandem_serve.engine.transfer.identity import (
    LENGTH,
    MAC_BYTES,
    KvIdentity,
    KvRefusedError,
    Proof,
    WorkerKey,
)
from tandem_serve.engine.transfer.lease import LeaseStore
from tandem_serve.engine.transfer.pull import KvPuller
from tandem_serve.engine.transfer.wire import KvPart
from tandem_serve.engine.types import FinishReason, RemoteKv, SamplingParams, SequenceRequest, Update
from tests.unit.serve import tiny

CAPACITY, RUNNING, BUDGET, MOST_NEW, LEASE = 640, 3, 64, 8, 6.0
TOO_LATE = {FinishReason.TIMEOUT, FinishReason.CANCELLED}
FAULTS = ("none", "none", "altered", "cut", "refused", "stands_still")


def prompts() -> list[tuple[int, ...]]:
    """Some begin alike; some are several segments long, one is less than a block."""
    generator = torch.Generator().manual_seed(6)
    shared, other = (torch.randint(2, tiny.VOCABULARY, (200,), generator=generator).tolist() for _ in range(2))
    return [tuple(one) for one in (shared, shared[:150], [*shared[:64], *other[:30]], other, other[:9])]


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> list[list[int]]:
    """What one worker continues each prompt with."""
    engine = new_engine(replace(llama, eos_ids=frozenset()), lambda: 0.0)
    tokens: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts()):
        sampling = SamplingParams(max_tokens=MOST_NEW, temperature=0)
        engine.add(SequenceRequest(seq_id=number, request_id="", prompt=prompt, sampling=sampling))
        tokens[number] = []
    while engine.scheduler.busy:
        for update in engine.step()[0]:
            tokens[update.seq_id] += update.token_ids
    return [tokens[number] for number in sorted(tokens)]


def new_engine(model: LoadedModel, clock: Callable[[], float]) -> EngineCore:
    limits = tiny.settings(Path("x"), max_num_seqs=RUNNING, max_num_batched_tokens=BUDGET, kv_cache_tokens=CAPACITY)
    return build_core(limits, model, clock=clock).engine


@dataclass
class Timers:
    """Sleeps of heartbeats on the fake clock."""

    world: World
    waiting: list[tuple[float, asyncio.Event]] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        due = asyncio.Event()
        self.waiting.append((self.world.now + seconds, due))
        await due.wait()

    def ring(self) -> None:
        for until, due in self.waiting:
            if until <= self.world.now:
                due.set()
        self.waiting = [entry for entry in self.waiting if not entry[1].is_set()]


@dataclass
class Wire:
    """The real bytes of a lease, read by the real checks, with a fault on the way. Stands in for HTTP."""

    world: World

    async def parts(self, remote: RemoteKv, prompt: tuple[int, ...], first: int) -> AsyncIterator[KvPart]:
        world = self.world
        if not world.prefill_lives:
            raise KvRefusedError("connect", "nobody there")
        lease = world.leases.open(remote.kv_id)
        if lease is None or not world.key.fits(remote.kv_id, remote.token):
            raise KvRefusedError("gone", "no such lease")
        generation, fault = world.generation, world.fault
        try:
            if fault == "refused":
                raise KvRefusedError("status", "503")
            message = wire.KvMessage(lease, first=first, who=world.who, layout=world.layout, token=remote.token)
            proof = Proof(remote.token, message.header)
            stop = len(prompt) - 1
            for number, (begin, count) in enumerate(wire.segments(world.layout, first, stop)):
                while True:
                    await world.network(fault, number)
                    if world.generation != generation or (fault == "cut" and number == 1):
                        raise KvRefusedError("cut", "the connection broke")
                    if lease.has(begin + count):
                        break
                    if lease.lost:
                        raise KvRefusedError("ended", "the sequence ended")
                    world.waited += 1
                frame = bytes(message.frame(number))
                kept = np.frombuffer(bytearray(frame[LENGTH.size : -MAC_BYTES]), dtype=np.uint8)
                if fault == "altered" and number == 1:
                    kept[17] ^= 1
                proof.check(memoryview(kept), frame[-MAC_BYTES:], first=begin)
                yield KvPart(first=begin, count=count, data=kept, layout=world.layout)
        finally:
            if world.generation == generation:
                world.leases.close(lease)

    async def renew(self, remote: RemoteKv) -> bool:
        return self.world.prefill_lives and self.world.leases.renew(remote.kv_id)

    async def free(self, remote: RemoteKv) -> None:
        if self.world.prefill_lives and not self.world.deaf:
            self.world.leases.delete(remote.kv_id)


@dataclass
class World:
    """Both workers, the router between them, and what has been said of each sequence."""

    model: LoadedModel
    expected: list[list[int]]
    now: float = 0.0
    fault: str = "none"
    deaf: bool = False
    prefill_lives: bool = True
    generation: int = 0
    waited: int = 0
    """How often a pull waited for what was not computed."""
    counted: dict[str, int] = field(default_factory=dict)
    asked: dict[int, tuple[int, SequenceRequest]] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, FinishReason] = field(default_factory=dict)
    offers: list[tuple[int, RemoteKv]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.layout = self.model.layout
        self.who: KvIdentity = wire.identity(self.layout, model_digest=self.model.digest, rope=self.model.rope)
        self.start_prefill()
        self.decode = new_engine(self.model, lambda: self.now)
        self.timers = Timers(self)
        self.puller = KvPuller(source=Wire(self), engine=self.decode, metrics=self, sleep=self.timers.sleep)  # type: ignore[arg-type]

    # ---- what the puller counts
    def kv_moved(self, direction: str, *, tokens: int, nbytes: int) -> None:
        assert direction == "received"
        assert nbytes == tokens * self.layout.bytes_per_token

    def kv_failed(self, reason: str) -> None:
        self.counted[reason] = self.counted.get(reason, 0) + 1

    def fell_back(self, reason: str, *, tokens: int) -> None:
        assert tokens > 0
        assert self.counted[reason] > 0

    # ---- the prefill worker
    def start_prefill(self) -> None:
        """A new process: its memory is empty and its key another one."""
        self.generation += 1
        self.prefill_lives, self.key = True, WorkerKey()
        self.prefill = new_engine(self.model, lambda: self.now)
        engine, heard = self.prefill, self.heard_of_prefill
        self.leases = LeaseStore(
            seconds=LEASE,
            clock=lambda: self.now,
            release=engine.release,
            cancel=lambda number: heard([update] if (update := engine.cancel(number)) is not None else []),
        )
        self.prefills: dict[int, int] = {}

    def kill_prefill(self) -> None:
        if self.prefill_lives:
            self.generation += 1
            self.prefill_lives = False

    def ask_prefill(self, choice: int) -> None:
        """The router's first leg."""
        if not self.prefill_lives:
            self.start_prefill()
        number = 1000 + len(self.prefills)
        self.prefills[number] = choice % len(prompts())
        sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
        request = SequenceRequest(
            seq_id=number,
            request_id="p",
            prompt=prompts()[choice % len(prompts())],
            sampling=sampling,
            deadline=self.now + 3 if choice % 7 == 3 else None,
            keep_kv=f"{self.generation}x{number}",
        )
        self.leases.on_start(request)
        self.prefill.add(request)

    def step_prefill(self) -> None:
        if self.prefill_lives:
            self.heard_of_prefill(self.prefill.step()[0])

    def heard_of_prefill(self, updates: list[Update]) -> None:
        """The offer goes to the router with the first KV."""
        for update in updates:
            self.leases.on_update(update)
            kv_id = f"{self.generation}x{update.seq_id}"
            complete = update.finish is not None and update.finish.reason is FinishReason.LENGTH
            if (update.kept is None and not complete) or any(remote.kv_id == kv_id for _, remote in self.offers):
                continue
            self.leases.offered(kv_id)
            token = self.key.token(kv_id)
            remote = RemoteKv(host="h", port=1, kv_id=kv_id, token=token, lease_seconds=LEASE)
            self.offers.append((self.prefills[update.seq_id], remote))

    def cancel_prefill(self, choice: int) -> None:
        """The client or the router goes during the first leg."""
        update = self.prefill.cancel(1000 + choice % len(self.prefills)) if self.prefills else None
        if update is not None and self.prefill_lives:
            self.heard_of_prefill([update])

    # ---- the decode worker
    def ask_decode(self, choice: int) -> None:
        """The router's second leg: with an offer, again with an old one, for two choices of it, or without."""
        text, remote = self.offers[choice % len(self.offers)] if self.offers else (choice % len(prompts()), None)
        if choice % 9 == 8:
            remote = None
        for _ in range(1 + (choice % 4 == 0)):
            number = len(self.asked)
            sampling = SamplingParams(max_tokens=1 + choice % MOST_NEW, temperature=0, ignore_eos=True)
            request = SequenceRequest(
                seq_id=number,
                request_id=str(number),
                prompt=prompts()[text],
                sampling=sampling,
                deadline=self.now + 5 if choice % 5 == 2 else None,
                remote=remote,
            )
            self.asked[number], self.tokens[number] = (text, request), []
            self.puller.on_start(request)
            self.decode.add(request)

    def step_decode(self) -> None:
        self.heard(self.decode.step()[0])

    def cancel_decode(self, choice: int) -> None:
        if self.asked:
            update = self.decode.cancel(choice % len(self.asked))
            self.heard([update] if update is not None else [])

    def heard(self, updates: list[Update]) -> None:
        for update in updates:
            assert update.seq_id not in self.ended
            self.tokens[update.seq_id] += update.token_ids
            if update.finish is not None:
                self.ended[update.seq_id] = update.finish.reason
            self.puller.on_update(self.asked[update.seq_id][1], update)

    # ---- network and time
    async def network(self, fault: str, number: int) -> None:
        """Every segment waits for the world to move on; one that stands still is given up in the end."""
        turns = 8 if fault == "stands_still" and number else 1
        for _ in range(turns):
            await self.moved.wait()
        if turns > 1:
            raise KvRefusedError("timeout", "too slow")

    def tick(self) -> None:
        self.now += 1
        self.leases.expire()
        self.timers.ring()

    async def settle(self) -> None:
        """Lets everything that can go on do so."""
        self.moved.set()
        self.moved = asyncio.Event()
        for _ in range(12):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Everything that was asked ends, and offers that nobody took up are over."""
        for _ in range(400):
            prefill_is_busy = self.prefill_lives and self.prefill.scheduler.busy
            if not self.decode.scheduler.busy and not prefill_is_busy and not len(self.puller):
                break
            self.step_prefill()
            self.step_decode()
            await self.settle()
        self.now += LEASE
        self.leases.expire()
        await self.puller.close()

    def check(self) -> None:
        """Right as far as it came, and nothing is held on either side."""
        assert set(self.ended) == set(self.asked)
        for number, (text, request) in self.asked.items():
            out, reason = self.tokens[number], self.ended[number]
            assert out == self.expected[text][: len(out)]
            assert reason in TOO_LATE or (reason, len(out)) == (FinishReason.LENGTH, request.sampling.max_tokens)
        assert self.decode.scheduler.blocks.used == 0
        assert len(self.puller) == 0
        if self.prefill_lives:
            assert self.prefill.scheduler.blocks.used == 0
            assert len(self.leases) == 0


NUMBER = st.integers(0, 1000)
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["prefill", "decode", "decode", "cancel_decode", "cancel_prefill"]), NUMBER),
    st.tuples(st.sampled_from(["steps", "steps", "tick", "fault", "kill_prefill", "deaf"]), NUMBER),
)


async def live(world: World, events: list[tuple[str, int]]) -> None:
    """One history."""
    does: dict[str, Callable[[int], Any]] = {
        "prefill": world.ask_prefill,
        "decode": world.ask_decode,
        "cancel_decode": world.cancel_decode,
        "cancel_prefill": world.cancel_prefill,
        "tick": lambda _: world.tick(),
        "kill_prefill": lambda choice: world.kill_prefill() if choice % 3 == 0 else None,
    }
    for kind, choice in events:
        if kind == "steps":
            for _ in range(1 + choice % 3):
                world.step_prefill()
                world.step_decode()
                await world.settle()
        elif kind == "fault":
            world.fault = FAULTS[choice % len(FAULTS)]
        elif kind == "deaf":
            world.deaf = choice % 2 == 0
        else:
            does[kind](choice)
            await asyncio.sleep(0)
    world.fault = "none" if world.fault == "stands_still" else world.fault
    await world.end()
    world.check()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=10, max_size=60))
def test_whatever_happens_on_the_way_texts_are_those_of_one_worker_and_nothing_leaks(
    llama: LoadedModel, expected: list[list[int]], events: list[tuple[str, int]]
) -> None:
    async def history() -> None:
        await live(World(replace(llama, eos_ids=frozenset()), expected), events)

    asyncio.run(history())


async def test_decode_gets_a_chunk_while_prefill_computes_the_next(
    llama: LoadedModel, expected: list[list[int]]
) -> None:
    world = World(replace(llama, eos_ids=frozenset()), expected)
    world.ask_prefill(0)
    world.step_prefill()
    world.ask_decode(3)
    for _ in range(3):
        world.step_decode()
        await world.settle()
    assert world.prefill.scheduler.busy
    for _ in range(4):
        world.step_prefill()
        await world.settle()
        world.step_decode()
    assert world.waited > 0
    assert world.decode.stats.prompt_tokens_transferred == len(prompts()[0]) - 1
    await world.end()
    world.check()
    assert world.counted == {}


async def test_a_lease_lives_as_long_as_a_decode_worker_that_waits_and_no_longer(
    llama: LoadedModel, expected: list[list[int]]
) -> None:
    world = World(replace(llama, eos_ids=frozenset()), expected)
    world.ask_prefill(0)
    while not world.offers:
        world.step_prefill()
    world.ask_decode(0)  # it does not step: all its places are taken
    for _ in range(5 * int(LEASE)):
        await world.settle()
        world.tick()
        assert len(world.leases) == 1
    world.deaf = True  # it dies without a word
    await world.puller.close()
    world.tick()
    assert world.prefill.scheduler.blocks.used > 0
    for _ in range(int(LEASE)):
        world.tick()
    assert world.prefill.scheduler.blocks.used == 0
