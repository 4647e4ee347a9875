"""Recorded decode steps: which there are, when they run, and what happens when they cannot be had."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tandem_serve.backend import build_core, kv_capacity
from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.core import EngineCore
from tandem_serve.engine.decode_graphs import MOST_TOKENS, DecodeStep, Recorder, Shape, Step, shapes
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.replaying import ReplayingRunner
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.selfcheck import sequence_of
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tests.unit.serve import tiny
from tests.unit.serve.tape import TapeRecorder

PROMPTS = ([5, 6, 7], list(range(20, 60)), list(range(2, 21)))


def engine_of(model: LoadedModel, recorder: Recorder | None) -> EngineCore:
    """At most three sequences of at most 64 tokens: few recordings."""
    small = replace(model, max_model_len=64, runner=ModelRunner(model.runner.model, as_gpu=True))
    return build_core(tiny.settings(Path("x"), max_num_seqs=3), small, recorder=recorder).engine


def answers(engine: EngineCore, **sampling: float) -> list[list[int]]:
    fields = {"max_tokens": 12, "temperature": 0, "ignore_eos": True} | sampling
    for number, prompt in enumerate(PROMPTS):
        params = SamplingParams(**fields)  # type: ignore[arg-type]
        engine.add(SequenceRequest(seq_id=number, request_id="", prompt=tuple(prompt), sampling=params))
    out: list[list[int]] = [[] for _ in PROMPTS]
    while engine.scheduler.busy:
        for update in engine.step()[0]:
            out[update.seq_id] += update.token_ids
    return out


def test_sizes_double_and_the_largest_comes_first() -> None:
    found = shapes(max_sequences=3, max_tokens=600)
    assert [(shape.sequences, shape.blocks) for shape in found] == [
        *((3, 38), (3, 32), (2, 38), (2, 32), (3, 16), (1, 38), (2, 16), (1, 32), (1, 16))
    ]


def test_steps_of_many_long_sequences_are_not_recorded() -> None:
    found = shapes(max_sequences=64, max_tokens=131_072)
    assert max(shape.places for shape in found) * BLOCK_TOKENS == MOST_TOKENS
    assert Shape(64, 64) in found
    assert Shape(1, MOST_TOKENS // BLOCK_TOKENS) in found
    assert len(found) < 60


def test_replayed_steps_give_the_same_tokens(llama: LoadedModel) -> None:
    replaying = engine_of(llama, TapeRecorder())
    assert answers(replaying) == answers(engine_of(llama, None))
    assert isinstance(replaying.runner, ReplayingRunner)
    assert replaying.runner.replayed == 11, "every step but the one of the prompts"


def test_replayed_steps_sample_and_report_log_probabilities(llama: LoadedModel) -> None:
    sampling = {"temperature": 1.0, "seed": 3, "top_p": 0.9, "logprobs": 2, "repetition_penalty": 1.2}
    assert answers(engine_of(llama, TapeRecorder()), **sampling) == answers(engine_of(llama, None), **sampling)


def test_what_is_left_over_of_a_step_touches_no_sequence(llama: LoadedModel) -> None:
    memory = KvMemory(llama.layout, capacity_tokens=8 * BLOCK_TOKENS)
    memory.data.narrow(3, 0, 8 * BLOCK_TOKENS).fill_(7.0)
    before = memory.data.clone()
    shape = Shape(4, 2)
    step = DecodeStep(llama.runner.model, memory, shape, torch.zeros(shape.numbers, dtype=torch.int64))
    sequence = sequence_of([5] * 20, first_block=2)
    step.write((Chunk(sequence, 19, 1, True),))
    step()
    changed = (memory.data != before).any(dim=-1).any(dim=0).any(dim=0).any(dim=0).nonzero().flatten().tolist()
    assert changed == [3 * BLOCK_TOKENS + 3, memory.waste * BLOCK_TOKENS]


def test_a_plan_that_fits_into_no_recorded_step_runs_as_usual(llama: LoadedModel) -> None:
    engine = engine_of(llama, TapeRecorder())
    runner = engine.runner
    assert isinstance(runner, ReplayingRunner)
    memory = KvMemory(llama.layout, capacity_tokens=8 * BLOCK_TOKENS)
    runner.forward((Chunk(sequence_of([5] * 3, first_block=0), 0, 3, True),), [2], memory)
    runner.forward((Chunk(sequence_of([5] * 3, first_block=0), 2, 1, True),), [0], memory)
    assert runner.replayed == 0, "a prompt, and another memory"


class Refusing(TapeRecorder):
    def record(self, step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")


class Forgetful(TapeRecorder):
    """Gives what the step gave when it was recorded."""

    def record(self, step: Step) -> Step:
        logits = step()
        return lambda: logits


class Greedy(TapeRecorder):
    def bytes_for(self, step: Step, *, count: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (Refusing(), "RuntimeError: operation not permitted when stream is capturing"),
        (Forgetful(), "what is replayed differs from what is computed by "),
        (Greedy(), "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_without_recordings_steps_run_as_usual_and_the_log_says_why(
    llama: LoadedModel, recorder: Recorder, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tandem_serve"):
        engine = engine_of(llama, recorder)
    assert isinstance(engine.runner, ModelRunner)
    (record,) = caplog.records
    assert record.message == "decode steps run without CUDA graphs: they cannot be recorded"
    assert vars(record)["reason"].startswith(reason)
    assert answers(engine) == answers(engine_of(llama, None))


def test_memory_for_recordings_is_not_given_to_kv(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem_serve.engine.device.memory_available", lambda: 10_000_000)
    settings = tiny.settings(Path("x"), kv_cache_tokens=None, max_num_seqs=64)
    alone, beside = (kv_capacity(settings, llama.layout, 1024, taken=taken) for taken in (0, 4_000_000))
    assert beside == alone * 6 // 10
