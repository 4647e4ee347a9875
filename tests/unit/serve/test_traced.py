"""Decode steps that were traced: when they run, that they give the same, and what happens when there is no trace."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tandem_serve.backend import build_core
from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.loader import LoadedModel, LoadOptions, load
from tandem_serve.engine.progress import LoadProgress
from tandem_serve.engine.replaying import ReplayingRunner, step_of
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.selfcheck import sequence_of
from tandem_serve.engine.traced import trace
from tests.unit.serve import tiny
from tests.unit.serve.test_decode_graphs import answers

log = logging.getLogger("test")
SAMPLED = {"temperature": 1.0, "seed": 3, "top_p": 0.9, "logprobs": 2, "repetition_penalty": 1.2}


def engine_of(model: LoadedModel, *, replayed: bool) -> EngineCore:
    engine = build_core(tiny.settings(Path("x"), max_num_seqs=3), model, traced=replayed).engine
    assert isinstance(engine.runner, ReplayingRunner) == replayed
    return engine


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_replayed_steps_give_the_same_tokens(llama: LoadedModel, sampling: dict[str, float]) -> None:
    replaying = engine_of(llama, replayed=True)
    assert answers(replaying, **sampling) == answers(engine_of(llama, replayed=False), **sampling)
    assert isinstance(replaying.runner, ReplayingRunner)
    assert replaying.runner.replayed == 11, "every step but the one of the prompts"


def test_one_trace_does_for_any_number_of_texts_of_any_length(llama: LoadedModel) -> None:
    memory = KvMemory(llama.layout, capacity_tokens=4096)
    replaying = trace(llama.runner, memory)
    memory.data.normal_()
    for lengths in ((1,), (1000,), (15, 16, 17), (900, 30, 880, 5), tuple(range(1, 33))):
        plan = step_of(llama.runner.model, memory, lengths)
        assert len(plan) == len(lengths)
        wanted = [*range(len(plan))][::-1]
        replayed, computed = (one.forward(plan, wanted, memory) for one in (replaying, llama.runner))
        assert torch.equal(replayed, computed)
    assert isinstance(replaying, ReplayingRunner)
    assert replaying.replayed == 5


def test_prompts_and_other_memories_are_computed_as_usual(llama: LoadedModel) -> None:
    runner = engine_of(llama, replayed=True).runner
    assert isinstance(runner, ReplayingRunner)
    memory = KvMemory(llama.layout, capacity_tokens=8 * BLOCK_TOKENS)
    runner.forward((Chunk(sequence_of([5] * 3, first_block=0), 2, 1, True),), [0], memory)
    engine = build_core(tiny.settings(Path("x")), llama, traced=True).engine
    assert isinstance(engine.runner, ReplayingRunner)
    answers(engine, max_tokens=1)
    assert engine.runner.replayed == runner.replayed == 0


def test_models_of_8_bit_integers_are_traced(llama_dir: Path) -> None:
    model = load(LoadOptions(directory=llama_dir, dtype="bfloat16", quantization="int8"), LoadProgress(log))
    memory = KvMemory(model.layout, capacity_tokens=1024)
    replaying = trace(model.runner, memory)
    assert isinstance(replaying, ReplayingRunner)
    for count in (1, 16, 17):
        plan = step_of(model.runner.model, memory, [9] * count)
        rows = list(range(count))
        assert torch.equal(replaying.forward(plan, rows, memory), model.runner.forward(plan, rows, memory))


def frozen(self: Any, hidden: Tensor) -> Tensor:
    """A layer whose code asks for a number of a tensor, as some models' do."""
    return hidden * 2 if hidden.sum() > 0 else hidden


def forgetful() -> Callable[[Any, Tensor], Tensor]:
    """A layer that gives what it gave first: a trace holds that, without a warning."""
    first: list[Tensor] = []

    def forward(self: Any, hidden: Tensor) -> Tensor:
        if not first:
            first.append(hidden.detach().clone())
        return first[0].mean() + hidden * 0 if torch.jit.is_tracing() else hidden  # type: ignore[attr-defined, no-untyped-call]

    return forward


NORM = "transformers.models.llama.modeling_llama.LlamaRMSNorm.forward"


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (frozen, r"ValueError: the model's code turns a tensor into a number of Python \(test_traced\.py:\d+\)"),
        (forgetful(), "what is replayed differs from what is computed by "),
    ],
    ids=["frozen", "forgetful"],
)
def test_a_model_that_a_trace_would_freeze_runs_as_usual_and_the_log_says_why(
    llama: LoadedModel,
    forward: Callable[[Any, Tensor], Tensor],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mock.patch(NORM, forward), caplog.at_level(logging.WARNING, logger="tandem_serve"):
        runner = trace(llama.runner, KvMemory(llama.layout, capacity_tokens=1024))
    assert runner is llama.runner
    (record,) = caplog.records
    assert record.message == "decode steps are not traced: each is computed as usual, a little slower"
    assert re.match(reason, vars(record)["reason"])


def test_with_next_to_no_memory_nothing_is_traced(llama: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tandem_serve"):
        runner = trace(llama.runner, KvMemory(llama.layout, capacity_tokens=4 * BLOCK_TOKENS))
    assert isinstance(runner, ModelRunner)
    (record,) = caplog.records
    assert vars(record)["reason"] == "ValueError: 4 blocks of KV are too few for a step to trace"
