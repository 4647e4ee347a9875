"""Decode steps that were recorded at the start, compared with what the model computes, and run from the recording."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine import selfcheck
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.runner import ModelRunner, Runner
from tandem_serve.engine.scheduler import Chunk

log = logging.getLogger(__name__)
Plan = tuple[Chunk, ...]
Replay = Callable[[Plan, list[int]], Tensor | None]
"""Logits of a step that gives each sequence one token, or None: not recorded. See `Runner.forward`."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded steps, and what they are tried with."""

    replay: Replay
    trials: tuple[tuple[Replay, Plan], ...]
    """Parts of it, each with a step that it has."""


class ReplayingRunner:
    """Replays recorded steps, and has `runner` run all others."""

    def __init__(self, runner: ModelRunner, memory: KvMemory, replay: Replay) -> None:
        self._runner = runner
        self._memory = memory
        self._replay = replay
        self.replayed = 0
        """Steps so far."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._runner.device

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self._runner.model

    @torch.inference_mode()
    def forward(self, plan: Plan, rows: list[int], memory: KvMemory) -> Tensor:
        """See `Runner`. The logits may last until the next step only."""
        if memory is self._memory and all(chunk.count == 1 for chunk in plan):
            logits = self._replay(plan, rows)
            if logits is not None:
                self.replayed += 1
                return logits
        return self._runner.forward(plan, rows, memory)


@dataclass(frozen=True, slots=True)
class Words:
    """What the log says."""

    done: str
    failed: str


def recorded(runner: ModelRunner, memory: KvMemory, record: Callable[[], Recording], words: Words) -> Runner:
    """A runner that replays what `record` records. What the memory holds is lost.

    `runner` itself when that fails, or does not give what the model gives; the log then says why.
    """
    began = time.monotonic()
    try:
        recording = record()
        worst = max(_difference(runner, memory, *trial) for trial in recording.trials)
    except Exception as error:
        log.warning(words.failed, extra={"reason": f"{type(error).__name__}: {error}"})
        return runner
    if not worst <= selfcheck.TOLERANCE[memory.layout.dtype]:
        reason = f"what is replayed differs from what is computed by {worst:.2g} standard deviations of the logits"
        log.warning(words.failed, extra={"reason": reason})
        return runner
    log.info(words.done, extra={"seconds": round(time.monotonic() - began, 2)})
    return ReplayingRunner(runner, memory, recording.replay)


def step_of(model: PreTrainedModel, memory: KvMemory, lengths: Iterable[int]) -> Plan:
    """A step that gives the next token to random texts of such lengths: those that model and memory have room for."""
    generator = torch.Generator().manual_seed(0)
    config = model.config.get_text_config(decoder=True)
    vocabulary, longest = config.vocab_size, getattr(config, "max_position_embeddings", None)
    chunks: list[Chunk] = []
    first = 0
    for length in lengths:
        if first + blocks_for(length) <= memory.blocks and (longest is None or length <= longest):
            text = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
            chunks.append(Chunk(selfcheck.sequence_of(text, first_block=first), length - 1, 1, True))
            first += blocks_for(length)
    return tuple(chunks)


@torch.inference_mode()
def _difference(runner: ModelRunner, memory: KvMemory, replay: Replay, plan: Plan) -> float:
    """How far replayed logits are from computed ones, in standard deviations."""
    memory.data.narrow(3, 0, sum(len(chunk.sequence.blocks) for chunk in plan) * BLOCK_TOKENS).normal_()
    rows = list(range(len(plan)))
    computed = runner.forward(plan, rows, memory).float()
    replayed = replay(plan, rows)
    if replayed is None:
        raise ValueError(f"a step of {len(plan)} sequences is not among the recorded ones")
    return selfcheck.apart(computed, replayed.float())
