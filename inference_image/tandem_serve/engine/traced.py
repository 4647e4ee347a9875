"""Decode steps that torch's interpreter runs on a CPU, so that Python starts one operation instead of several hundred.

One trace does for any number of sequences of any length: it holds the model's operations with the shapes as they come,
and what depends on the numbers of a step is in `kernels`, which are compiled and not traced. Where a model's code turns
a tensor into a Python number, a trace would freeze what it found; such models are not traced.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine import selfcheck
from tandem_serve.engine.attention import PackedBatch
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.kv_cache import KvMemory
from tandem_serve.engine.packed_linear import PackedLinear
from tandem_serve.engine.runner import ModelRunner, Row, Runner
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.singles import Singles

log = logging.getLogger(__name__)
Replay = Callable[..., Tensor]
_TRACED = (19, 40, 18)
"""Lengths of the sequences of the step that is traced."""
_COMPARED = ((5,), (300, 17, 18, 3, 40), (20, 21))
"""Lengths of those of the steps that it must give the same for as the model."""


class TracedRunner:
    """Runs decode steps as they were traced, and has `runner` run all others."""

    def __init__(self, runner: ModelRunner, memory: KvMemory, replay: Replay) -> None:
        self._runner = runner
        self._memory = memory
        self._replay = replay
        self._weights = _opaque(runner.model)
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
    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> Tensor:
        """See `Runner`."""
        if memory is not self._memory or any(chunk.count > 1 for chunk in plan):
            return self._runner.forward(plan, rows, memory)
        self.replayed += 1
        # Optimising would make another graph for each shape that comes.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self._replay(*_numbers(self._runner.prepare(plan, rows, memory)), *self._weights)


def trace(runner: ModelRunner, memory: KvMemory) -> Runner:
    """A runner that replays decode steps. What the memory holds is lost.

    `runner` itself when its model cannot be traced, or the trace does not give what it gives; the log then says why.
    """
    began = time.monotonic()
    try:
        replaying = TracedRunner(runner, memory, _trace(runner, memory))
        worst = max(_difference(runner, replaying, memory, lengths) for lengths in _COMPARED)
    except Exception as error:
        _say_why_not(f"{type(error).__name__}: {error}")
        return runner
    if not worst <= selfcheck.TOLERANCE[memory.layout.dtype]:
        _say_why_not(f"what is replayed differs from what is computed by {worst:.2g} standard deviations of the logits")
        return runner
    log.info("decode steps traced", extra={"seconds": round(time.monotonic() - began, 2)})
    replaying.replayed = 0
    return replaying


def _say_why_not(reason: str) -> None:
    log.warning("decode steps run operation by operation: they cannot be traced", extra={"reason": reason})


@torch.inference_mode()
def _trace(runner: ModelRunner, memory: KvMemory) -> Replay:
    plan = _plan(runner.model, memory, _TRACED)
    if len(plan) < len(_TRACED):
        raise ValueError(f"{memory.blocks} blocks of KV are too few for a step to trace")
    row = runner.prepare(plan, _all(plan), memory)

    given = _numbers(row)

    def step(*numbers: Tensor) -> Tensor:
        tokens, positions, wanted, rows, blocks, stops, lots = numbers[: len(given)]
        packed = PackedBatch(memory, Singles(memory, blocks, stops, lots), (), rows, as_gpu=False)
        return runner.compute(Row(tokens, positions, wanted, packed))

    runner.model.requires_grad_(requires_grad=False)
    # As errors they would be raised inside of torch's own code, which is not made for that.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        replay: Replay = torch.jit.trace(step, (*given, *_opaque(runner.model)), check_trace=False)
    frozen = [one for one in caught if issubclass(one.category, torch.jit.TracerWarning)]  # type: ignore[attr-defined]
    if frozen:
        raise ValueError(f"{frozen[0].filename}:{frozen[0].lineno}: {frozen[0].message}")
    return replay


def _numbers(row: Row) -> tuple[Tensor, ...]:
    singles = row.packed.singles
    if singles is None:
        raise ValueError("a decode step has spans of one token")
    return row.tokens, row.positions, row.wanted, row.packed.rows, singles.blocks, singles.stops, singles.lots


def _opaque(model: PreTrainedModel) -> tuple[Tensor, ...]:
    """Weights that a trace cannot hold: it takes them as inputs."""
    return tuple(module.weight for module in model.modules() if isinstance(module, PackedLinear))


def _plan(model: PreTrainedModel, memory: KvMemory, lengths: Iterable[int]) -> tuple[Chunk, ...]:
    """A step that gives the next token to sequences of such lengths, as far as the memory goes."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    chunks: list[Chunk] = []
    first = 0
    for length in lengths:
        if first + blocks_for(length) <= memory.blocks:
            prompt = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
            chunks.append(Chunk(selfcheck.sequence_of(prompt, first_block=first), length - 1, 1, True))
            first += blocks_for(length)
    return tuple(chunks)


def _all(plan: tuple[Chunk, ...]) -> list[int]:
    return list(range(len(plan)))


def _difference(runner: ModelRunner, replaying: TracedRunner, memory: KvMemory, lengths: tuple[int, ...]) -> float:
    """How far replayed logits are from computed ones, in standard deviations."""
    plan = _plan(runner.model, memory, lengths)
    memory.data.narrow(3, 0, sum(len(chunk.sequence.blocks) for chunk in plan) * BLOCK_TOKENS).normal_()
    computed, replayed = (one.forward(plan, _all(plan), memory).float() for one in (runner, replaying))
    return selfcheck.apart(computed, replayed)
