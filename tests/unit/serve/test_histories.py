"""Whatever arrives, ends and goes away in whatever order: limits hold, nothing leaks, and every token is right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_serve.backend import build_core
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.types import FinishReason, RemoteKv, SamplingParams, SequenceRequest, Update
from tests.unit.serve import tiny
from tests.unit.serve.held import Held

RUNNING, BUDGET, CAPACITY = 3, 24, 160
MOST_NEW = 10
DRAWN: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 0.95,
    "seed": 3,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.2,
    "logit_bias": ((9, 2.0),),
}
"""What some of the sequences ask for: their tokens must not depend on who else is there."""
TOO_LATE = {FinishReason.TIMEOUT, FinishReason.CANCELLED}


def texts() -> list[tuple[int, ...]]:
    """Prompts that begin alike for some blocks, and some that do not."""
    generator = torch.Generator().manual_seed(5)
    shared, other = (torch.randint(2, tiny.VOCABULARY, (50,), generator=generator).tolist() for _ in range(2))
    return [tuple(one) for one in (shared, shared[:33], [*shared[:32], *other[:9]], other[:40], shared[:1], other[:16])]


@pytest.fixture(scope="module")
def expected(llama_dir: Path) -> list[list[int]]:
    """What `generate()` continues each prompt with."""
    return tiny.generated(llama_dir, texts(), new_tokens=MOST_NEW)


@pytest.fixture(scope="module")
def drawn(llama: LoadedModel) -> list[list[int]]:
    """What each prompt is continued with when it is alone and asks for `DRAWN`."""
    out: list[list[int]] = []
    for prompt in texts():
        engine = build_core(tiny.settings(Path("x")), llama).engine
        sampling = SamplingParams(max_tokens=MOST_NEW, ignore_eos=True, **DRAWN)
        engine.add(SequenceRequest(seq_id=0, request_id="", prompt=prompt, sampling=sampling))
        tokens: list[int] = []
        while engine.scheduler.busy:
            tokens += [token for update in engine.step()[0] for token in update.token_ids]
        out.append(tokens)
    return out


class WatchedRunner(ModelRunner):
    """The real one, and a look at every step."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner.model)

    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: Any) -> torch.Tensor:
        assert 0 < sum(chunk.count for chunk in plan) <= BUDGET
        assert len(plan) <= RUNNING
        assert len({chunk.sequence.seq_id for chunk in plan}) == len(plan)
        return super().forward(plan, rows, memory)


@dataclass
class History:
    """An engine, its clock, and what it has said of each sequence."""

    model: LoadedModel
    expected: list[list[int]]
    drawn: list[list[int]]
    now: float = 0.0
    text_of: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    asked: dict[int, SequenceRequest] = field(default_factory=dict)
    ended: dict[int, FinishReason] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)
    pulling: set[int] = field(default_factory=set)
    beside: bool = False
    """Whether prompts are computed beside running sequences."""
    held: Held = field(default_factory=Held)
    engine: EngineCore = field(init=False)

    def __post_init__(self) -> None:
        limits = tiny.settings(Path("x"), max_num_seqs=RUNNING, max_num_batched_tokens=BUDGET, kv_cache_tokens=CAPACITY)
        beside = (self.held, WatchedRunner(self.model.runner)) if self.beside else None
        self.engine = build_core(limits, self.model, clock=lambda: self.now, beside=beside).engine

    def arrive(self, choice: int) -> None:
        """A sequence. One in four has a deadline; one in five keeps its KV, another waits for KV from elsewhere; one in
        three draws its tokens.
        """
        number, text = len(self.asked), choice % 6
        kind = choice // 6
        chosen: dict[str, Any] = DRAWN if kind % 3 == 2 else {"temperature": 0}
        request = SequenceRequest(
            seq_id=number,
            request_id=str(number // 2),
            prompt=texts()[text],
            sampling=SamplingParams(max_tokens=1 + choice % MOST_NEW, ignore_eos=True, **chosen),
            deadline=self.now + 4 if kind % 4 == 3 else None,
            keep_kv="k" if kind % 5 == 1 else None,
            remote=RemoteKv(host="h", port=1, kv_id="k", token="t", lease_seconds=30) if kind % 5 == 2 else None,
        )
        self.asked[number], self.text_of[number], self.tokens[number] = request, text, []
        self.engine.add(request)

    def gone(self, choice: int) -> None:
        """A client goes away: the sequences of its request are cancelled, also those that have ended."""
        request_id = str(choice % (1 + len(self.asked) // 2))
        for number, request in self.asked.items():
            if request.request_id == request_id:
                update = self.engine.cancel(number)
                assert (update is None) == (number in self.ended)
                self.heard([update] if update is not None else [])

    def answered(self) -> None:
        """The pulls that wait have failed."""
        for number in self.pulling:
            self.engine.prefill_locally(number)
        self.pulling.clear()

    def freed(self) -> None:
        """Kept KV is fetched."""
        for kv in self.kept:
            self.engine.release(kv)
        self.kept.clear()

    def heard(self, updates: list[Update]) -> None:
        for update in updates:
            assert update.seq_id not in self.ended, "no news after the end"
            deadline = self.asked[update.seq_id].deadline
            assert not update.token_ids or deadline is None or self.now < deadline
            self.tokens[update.seq_id] += update.token_ids
            if update.started and self.asked[update.seq_id].remote is not None:
                self.pulling.add(update.seq_id)
            if update.finish is not None:
                self.ended[update.seq_id] = update.finish.reason
                self.pulling.discard(update.seq_id)
                if update.finish.kv is not None:
                    self.kept.append(update.finish.kv)

    def step(self) -> bool:
        updates, ran = self.engine.step()
        self.heard(updates)
        stats = self.engine.stats
        assert stats.running <= RUNNING
        assert stats.kv_used_tokens <= CAPACITY
        scheduler = self.engine.scheduler
        held = {block for holder in (*scheduler.running, *self.kept) for block in holder.blocks}
        if self.engine._begun is not None:
            held |= {block for blocks in self.engine._begun.freed for block in blocks}
        assert scheduler.blocks.used == len(held), "blocks are those of running sequences and kept KV"
        return ran

    def check(self) -> None:
        """Every sequence has ended; as far as it came its tokens are those of `generate()`, or those it draws alone."""
        for number, request in self.asked.items():
            reason, out = self.ended[number], self.tokens[number]
            right = self.drawn if request.sampling.seed is not None else self.expected
            assert out == right[self.text_of[number]][: len(out)]
            assert reason in TOO_LATE or (reason, len(out)) == (FinishReason.LENGTH, request.sampling.max_tokens)


EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 1000)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.sampled_from(["gone", "late", "answered", "freed", "ended"]), st.integers(0, 20)),
)


@pytest.mark.parametrize("beside", [False, True])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=10, max_size=40))
def test_random_histories_leak_nothing_and_every_token_is_that_of_generate(
    llama: LoadedModel,
    expected: list[list[int]],
    drawn: list[list[int]],
    events: list[tuple[str, int]],
    *,
    beside: bool,
) -> None:
    history = History(replace(llama, runner=WatchedRunner(llama.runner)), expected, drawn, beside=beside)
    for kind, choice in events:
        if kind == "arrive":
            history.arrive(choice)
        elif kind == "gone":
            history.gone(choice)
        elif kind == "late":
            history.now += 1
        elif kind == "answered":
            history.answered()
        elif kind == "freed":
            history.freed()
        elif kind == "ended":
            history.held.end()
        else:
            for _ in range(choice):
                history.step()
    while history.engine.scheduler.busy:
        history.answered()
        history.freed()
        history.step()
    history.freed()
    history.check()
    assert history.engine.scheduler.blocks.used == 0
