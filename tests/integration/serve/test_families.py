"""Tiny models of many architectures: what they give in batches is what transformers' own generate() gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tandem_serve.backend import build_core
from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.decode_graphs import Recorder
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.replaying import ReplayingRunner
from tandem_serve.engine.runner import ModelRunner
from tandem_serve.engine.types import SamplingParams, SequenceRequest
from tests.unit.serve import tiny
from tests.unit.serve.conftest import load_model

LENGTHS = (3, 17, 40)
NEW_TOKENS = 8


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(2, tiny.VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def reference(directory: Path) -> list[list[int]]:
    return tiny.generated(directory, prompts(), new_tokens=NEW_TOKENS)


def answers(model: LoadedModel, recorder: Recorder | None = None, *, traced: bool = False) -> list[list[int]]:
    """In small steps, three sequences at once; the fourth finds what the third has left."""
    settings = tiny.settings(Path("x"), max_num_seqs=3, max_num_batched_tokens=13)
    engine = build_core(settings, model, recorder=recorder, traced=traced).engine
    assert isinstance(engine.runner, ReplayingRunner) == (traced or recorder is not None)
    engine._memory.data[:, :, :, : engine._memory.zeros * BLOCK_TOKENS] = float("nan")  # unwritten: must not matter
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    asked = [*prompts(), prompts()[2]]
    for number, prompt in enumerate(asked):
        engine.add(SequenceRequest(seq_id=number, request_id="", prompt=tuple(prompt), sampling=sampling))
    out: list[list[int]] = [[] for _ in asked]
    while engine.scheduler.busy:
        for update in engine.step()[0]:
            out[update.seq_id] += update.token_ids
    assert engine.stats.prompt_tokens_reused == 32
    return out


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_every_family_gives_what_generate_gives(family: str, tmp_path: Path) -> None:
    directory = tiny.save_family(tmp_path, family)
    expected = reference(directory)
    assert len({token for one in expected for token in one}) > 8, "the reference is too uniform to prove anything"
    model = load_model(directory)
    assert answers(model) == [*expected, expected[2]]
    together = replace(model, runner=ModelRunner(model.runner.model, as_gpu=True))
    assert answers(together) == [*expected, expected[2]], "as on a GPU: all that get one token attend in one call"
