"""Prompts that are computed beside running sequences, in a step that the test ends when it likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem_serve.backend import build_core
from tandem_serve.engine.beside import BesideThread
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.types import FinishReason, SamplingParams, SequenceRequest, Update
from tests.unit.serve import tiny
from tests.unit.serve.held import Held

SHORT, LONG, OTHER, ANOTHER = (tuple(range(*ends)) for ends in ((5, 12), (20, 90), (100, 140), (150, 170)))


class Rig:
    """An engine with a clock, and what it has said."""

    def __init__(self, model: LoadedModel, **settings: Any) -> None:
        self.now = 0.0
        self.held = Held()
        self.core: EngineCore = build_core(
            tiny.settings(Path("x"), **settings),
            model,
            clock=lambda: self.now,
            beside=(self.held, ModelRunner(model.runner.model)),
        ).engine
        self.tokens: dict[int, list[int]] = {}
        self.finishes: dict[int, Any] = {}

    def add(self, number: int, prompt: tuple[int, ...], new: int = 8, **fields: Any) -> None:
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        request = SequenceRequest(seq_id=number, request_id=str(number), prompt=prompt, sampling=sampling, **fields)
        self.tokens[number] = []
        self.core.add(request)

    def heard(self, updates: list[Update]) -> None:
        for update in updates:
            self.tokens[update.seq_id] += update.token_ids
            if update.finish is not None:
                self.finishes[update.seq_id] = update.finish

    def step(self) -> bool:
        updates, ran = self.core.step()
        self.heard(updates)
        return ran

    def finish(self) -> None:
        """Until all have ended; what is begun ends before each step."""
        while self.core.scheduler.busy:
            self.held.end()
            self.step()


def alone(model: LoadedModel, prompt: tuple[int, ...], new: int = 8) -> list[int]:
    engine = build_core(tiny.settings(Path("x")), model).engine
    sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    engine.add(SequenceRequest(seq_id=0, request_id="", prompt=prompt, sampling=sampling))
    tokens: list[int] = []
    while engine.scheduler.busy:
        tokens += [token for update in engine.step()[0] for token in update.token_ids]
    return tokens


@pytest.fixture
def rig(llama: LoadedModel) -> Rig:
    """A running sequence, and a long prompt that is being computed beside it."""
    rig = Rig(llama)
    rig.add(0, SHORT, new=20)
    rig.step()
    rig.add(1, LONG)
    rig.step()
    assert rig.held.begun is not None
    return rig


def test_running_sequences_get_tokens_while_a_prompt_is_computed(rig: Rig, llama: LoadedModel) -> None:
    for _ in range(5):
        rig.step()
    assert len(rig.tokens[0]) == 7
    assert rig.tokens[1] == []
    rig.finish()
    assert rig.tokens == {0: alone(llama, SHORT, 20), 1: alone(llama, LONG)}
    assert rig.core.scheduler.blocks.used == 0


def test_a_prompt_alone_is_computed_by_the_engine_itself(llama: LoadedModel) -> None:
    rig = Rig(llama)
    rig.add(0, LONG)
    rig.add(1, SHORT)
    rig.step()
    assert rig.held.begun is None
    assert [len(tokens) for tokens in rig.tokens.values()] == [1, 1]


def test_prompts_that_come_meanwhile_go_together_afterwards(rig: Rig, llama: LoadedModel) -> None:
    rig.add(2, OTHER)
    rig.add(3, ANOTHER)
    rig.step()
    rig.held.end()
    rig.step()
    assert rig.held.begun is not None, "the next two at once"
    rig.held.end()
    rig.step()
    assert rig.held.begun is None
    rig.finish()
    assert rig.tokens[2] == alone(llama, OTHER)
    assert rig.tokens[3] == alone(llama, ANOTHER)


def test_when_nothing_else_runs_the_step_beside_is_waited_for(llama: LoadedModel) -> None:
    core = build_core(tiny.settings(Path("x")), llama, beside=(BesideThread(), ModelRunner(llama.runner.model))).engine
    tokens: dict[int, list[int]] = {0: [], 1: []}
    for number, (prompt, new) in enumerate(((SHORT, 3), (LONG, 8))):
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        core.add(SequenceRequest(seq_id=number, request_id="", prompt=prompt, sampling=sampling))
        updates, _ = core.step()
        for update in updates:
            tokens[update.seq_id] += update.token_ids
    while core.scheduler.busy:
        updates, ran = core.step()
        assert ran
        for update in updates:
            tokens[update.seq_id] += update.token_ids
    assert tokens == {0: alone(llama, SHORT, 3), 1: alone(llama, LONG)}


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_memory_of_one_that_ends_meanwhile_is_free_when_the_step_has_ended(llama: LoadedModel, end: str) -> None:
    rig = Rig(llama)
    rig.add(0, SHORT, new=20)
    rig.step()
    rig.add(1, LONG, deadline=5.0)
    rig.step()
    if end == "late":
        rig.now = 6.0
        rig.step()
    else:
        update = rig.core.cancel(1)
        assert update is not None
        rig.heard([update])
    assert rig.finishes[1].reason is (FinishReason.TIMEOUT if end == "late" else FinishReason.CANCELLED)
    own = rig.core.scheduler.blocks.used
    rig.held.end()
    rig.step()
    assert rig.core.scheduler.blocks.used < own
    rig.finish()
    assert rig.core.scheduler.blocks.used == 0
    assert rig.tokens == {0: alone(llama, SHORT, 20), 1: []}


def test_kept_memory_that_is_released_meanwhile_is_free_when_the_step_has_ended(llama: LoadedModel) -> None:
    rig = Rig(llama)
    rig.add(0, SHORT, new=20)
    rig.step()
    rig.add(1, LONG, keep_kv="k")
    rig.step()
    update = rig.core.cancel(1)
    assert update is not None
    assert update.finish is not None
    rig.core.release(update.finish.kv)
    held = rig.core.scheduler.blocks.used
    rig.held.end()
    rig.step()
    assert rig.core.scheduler.blocks.used < held
    rig.finish()
    assert rig.core.scheduler.blocks.used == 0


def test_a_step_beside_that_fails_ends_its_sequences_only(rig: Rig, llama: LoadedModel) -> None:
    rig.held.end(RuntimeError("no"))
    rig.step()
    assert rig.finishes[1].reason is FinishReason.ERROR
    assert rig.finishes[1].message == "the model failed: RuntimeError"
    rig.finish()
    assert rig.tokens[0] == alone(llama, SHORT, 20)
    assert rig.core.scheduler.blocks.used == 0


def test_the_same_beginning_is_not_computed_twice(rig: Rig, llama: LoadedModel) -> None:
    rig.add(2, LONG[:48] + OTHER)
    rig.finish()
    assert rig.core.stats.prompt_tokens_reused == 48
    assert rig.tokens[2] == alone(llama, LONG[:48] + OTHER)


def test_prompts_of_chunks_are_computed_to_their_end(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem_serve.engine.core._BESIDE_TOKENS", 16)
    rig = Rig(llama)
    rig.add(0, SHORT, new=30)
    rig.step()
    rig.add(1, LONG)
    rig.finish()
    assert rig.tokens == {0: alone(llama, SHORT, 30), 1: alone(llama, LONG)}


def test_how_long_it_runs_is_told(rig: Rig) -> None:
    assert rig.core.beside_since == 0.0
    rig.held.end()
    rig.step()
    assert rig.core.beside_since is None
