"""Batched greedy output is what transformers' own generate() gives, whatever runs beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tandem_serve.backend import build_core
from tandem_serve.engine.beside import BesideThread
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tests.unit.serve import tiny

LENGTHS = (1, 2, 15, 16, 17, 40, 63, 130)
NEW_TOKENS = 24


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(2, tiny.VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def generate(model: LoadedModel, *, token_budget: int, max_running: int, traced: bool) -> list[list[int]]:
    settings = tiny.settings(Path("x"), max_num_seqs=max_running, max_num_batched_tokens=token_budget)
    engine = build_core(settings, model, traced=traced).engine
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    for number, prompt in enumerate(prompts()):
        engine.add(SequenceRequest(seq_id=number, request_id="", prompt=tuple(prompt), sampling=sampling))
    out: list[list[int]] = [[] for _ in LENGTHS]
    while engine.scheduler.busy:
        for update in engine.step()[0]:
            out[update.seq_id] += update.token_ids
    assert engine.stats.kv_used_tokens == 0
    return out


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("token_budget", "max_running"), [(512, 8), (13, 3)])
@pytest.mark.parametrize("traced", [False, True])
def test_greedy_equals_generate(
    request: pytest.FixtureRequest, family: str, token_budget: int, max_running: int, traced: bool
) -> None:
    directory: Path = request.getfixturevalue(f"{family}_dir")
    expected = tiny.generated(directory, prompts(), new_tokens=NEW_TOKENS)
    assert len({token for out in expected for token in out}) > 50, "the reference is too uniform to prove anything"
    model: LoadedModel = request.getfixturevalue(family)
    assert generate(model, token_budget=token_budget, max_running=max_running, traced=traced) == expected


class Counting(ModelRunner):
    """The real one, and how often it ran."""

    steps = 0

    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> torch.Tensor:
        self.steps += 1
        return super().forward(plan, rows, memory)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_greedy_equals_generate_while_prompts_are_computed_in_a_thread_beside(
    request: pytest.FixtureRequest, family: str
) -> None:
    expected = tiny.generated(request.getfixturevalue(f"{family}_dir"), prompts(), new_tokens=NEW_TOKENS)
    model: LoadedModel = request.getfixturevalue(family)
    beside = Counting(model.runner.model)
    settings = tiny.settings(Path("x"), max_num_seqs=8)
    engine = build_core(settings, model, traced=True, beside=(BesideThread(), beside)).engine
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    out: list[list[int]] = [[] for _ in LENGTHS]
    waiting = list(enumerate(prompts()))
    while waiting or engine.scheduler.busy:
        if waiting:
            number, prompt = waiting.pop(0)
            engine.add(SequenceRequest(seq_id=number, request_id="", prompt=tuple(prompt), sampling=sampling))
        for update in engine.step()[0]:
            out[update.seq_id] += update.token_ids
    assert out == expected
    assert beside.steps > 0
    assert engine.stats.kv_used_tokens == 0
