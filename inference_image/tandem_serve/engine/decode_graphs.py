"""Decode steps of fixed shapes that a GPU replays: the start of a step's thousand kernels is then one call.

A step of a shape gives the next token to so many sequences of at most so many blocks. All that differs from one step to
the next stands in one tensor of numbers, which is written first; places that are left over compute what nobody reads.
The steps are recorded when the server starts. A plan runs as the smallest one that it fits into, or else as usual.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine import selfcheck
from tandem_serve.engine.attention import PackedBatch
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.device import to_device
from tandem_serve.engine.kv_cache import KvLayout, KvMemory
from tandem_serve.engine.runner import ModelRunner, Runner, kv_of
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.singles import fill_line, one_lot

log = logging.getLogger(__name__)
MOST_TOKENS = 65_536
"""Of all places of a recorded step together: with more, computing takes longer than starting the kernels."""
_FEWEST_BLOCKS = 16
_NUMBERS = 3  # of each sequence, besides its blocks: token, row, stop

Step = Callable[[], Tensor]
"""Runs the model on what the numbers say now; returns logits, which the next step may overwrite."""


class Recorder(Protocol):
    """What turns steps into recorded ones: see `cuda_recorder`."""

    def record(self, step: Step) -> Step:
        """Does what `step` does on the device, on the same tensors, without running its Python again."""

    def bytes_for(self, step: Step, *, count: int) -> int:
        """Memory that recording takes, when `step` is the largest of `count`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Places of a step: sequences, and blocks of each."""

    sequences: int
    blocks: int

    @property
    def places(self) -> int:
        """Blocks of all sequences."""
        return self.sequences * self.blocks

    @property
    def numbers(self) -> int:
        """How many numbers tell such a step what to do."""
        return self.sequences * _NUMBERS + self.places


def shapes(*, max_sequences: int, max_tokens: int) -> tuple[Shape, ...]:
    """Those worth recording, the largest first: sequences and blocks double from one to the next."""
    found = [
        Shape(sequences, blocks)
        for sequences in _doubling(1, max_sequences)
        for blocks in _doubling(_FEWEST_BLOCKS, blocks_for(max_tokens))
        if sequences * blocks * BLOCK_TOKENS <= MOST_TOKENS
    ]
    return tuple(sorted(found, key=lambda shape: (shape.places, shape.sequences), reverse=True))


def _doubling(first: int, last: int) -> list[int]:
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


class DecodeStep:
    """The model over one step of a shape; a `Step`."""

    def __init__(self, model: PreTrainedModel, memory: KvMemory, shape: Shape, numbers: Tensor) -> None:
        self.shape = shape
        self._model = model
        self._memory = memory
        self._numbers = numbers[: shape.numbers]
        count = shape.sequences
        self._tokens, self._rows, self._stops, blocks = self._numbers.split([count, count, count, shape.places])
        self._blocks = blocks.view(count, shape.blocks)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Logits [places for sequences, vocabulary]."""
        singles = one_lot(self._memory, self._blocks, self._stops)
        packed = PackedBatch(self._memory, singles, (), self._rows, as_gpu=True)
        output = self._model(
            input_ids=self._tokens[None], position_ids=self._stops[None] - 1, use_cache=False, packed=packed
        )
        logits: Tensor = output.logits[0]
        return logits

    def write(self, plan: tuple[Chunk, ...]) -> None:
        """Makes the next run one of this plan. What is left over reads zeros and writes to the block for waste."""
        numbers = self._all_left_over()
        count = self.shape.sequences
        tokens, rows, stops = numbers[: count * _NUMBERS].reshape(_NUMBERS, count)
        table = numbers[count * _NUMBERS :].reshape(count, self.shape.blocks)
        for index, chunk in enumerate(plan):
            kv = kv_of(chunk.sequence, self._memory)
            tokens[index] = chunk.sequence.tokens[chunk.start]
            rows[index] = kv.row(chunk.start)
            stops[index] = chunk.start + 1
            kv.begin(chunk.start, chunk.start + 1)
            fill_line(table[index], kv, chunk.start + 1)
        self._numbers.copy_(to_device(numbers, self._numbers.device), non_blocking=True)

    def _all_left_over(self) -> NDArray[np.int64]:
        count = self.shape.sequences
        waste = self._memory.waste * BLOCK_TOKENS
        return np.repeat(
            np.array([0, waste, 1, self._memory.zeros], dtype=np.int64), [count, count, count, self.shape.places]
        )


@dataclass(frozen=True, slots=True)
class _Recorded:
    step: DecodeStep
    replay: Step


class ReplayingRunner:
    """Replays recorded steps, and has `runner` run all others."""

    def __init__(self, runner: ModelRunner, memory: KvMemory, recorded: list[_Recorded]) -> None:
        self._runner = runner
        self._memory = memory
        self._recorded = sorted(recorded, key=lambda one: one.step.shape.places)
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
        """See `Runner`. The logits last until the next step."""
        found = self._smallest_for(plan) if memory is self._memory else None
        if found is None:
            return self._runner.forward(plan, rows, memory)
        found.step.write(plan)
        logits = found.replay()
        self.replayed += 1
        if rows == list(range(len(plan))):
            return logits[: len(plan)]
        return logits[to_device(np.array(rows, dtype=np.int64), logits.device)]

    def _smallest_for(self, plan: tuple[Chunk, ...]) -> _Recorded | None:
        if any(chunk.count > 1 for chunk in plan):
            return None
        longest = max(blocks_for(chunk.start + 1) for chunk in plan)
        fitting = (
            one for one in self._recorded if one.step.shape.sequences >= len(plan) and one.step.shape.blocks >= longest
        )
        return next(fitting, None)


def bytes_for(runner: ModelRunner, layout: KvLayout, recorder: Recorder, sizes: tuple[Shape, ...]) -> int | None:
    """Memory to keep free of KV for recording steps of these shapes. None, and a line in the log: it cannot be done."""
    memory = KvMemory(layout, capacity_tokens=BLOCK_TOKENS)
    try:
        step = DecodeStep(runner.model, memory, sizes[0], _numbers(sizes, layout.device))
        step.write(())
        return recorder.bytes_for(step, count=len(sizes))
    except Exception as error:
        _say_why_not(f"{type(error).__name__}: {error}")
        return None


def record(runner: ModelRunner, memory: KvMemory, recorder: Recorder, sizes: tuple[Shape, ...]) -> Runner:
    """A runner that replays steps of these shapes.

    `runner` itself when they cannot be recorded, or do not give what the model gives; the log then says why.
    """
    began = time.monotonic()
    numbers = _numbers(sizes, memory.layout.device)
    recorded = []
    try:
        for shape in sizes:
            step = DecodeStep(runner.model, memory, shape, numbers)
            step.write(())
            recorded.append(_Recorded(step, recorder.record(step)))
        worst = max(_difference(runner, memory, one) for one in recorded)
    except Exception as error:
        _say_why_not(f"{type(error).__name__}: {error}")
        return runner
    if not worst <= selfcheck.TOLERANCE[memory.layout.dtype]:
        _say_why_not(f"what is replayed differs from what is computed by {worst:.2g} standard deviations of the logits")
        return runner
    seconds = round(time.monotonic() - began, 2)
    log.info("decode steps recorded", extra={"graphs": len(recorded), "seconds": seconds})
    return ReplayingRunner(runner, memory, recorded)


def _say_why_not(reason: str) -> None:
    log.warning("decode steps run without CUDA graphs: they cannot be recorded", extra={"reason": reason})


def _numbers(sizes: tuple[Shape, ...], device: torch.device) -> Tensor:
    """Room for the numbers of any of the shapes: one runs at a time."""
    return torch.zeros(max(shape.numbers for shape in sizes), dtype=torch.int64, device=device)


def _difference(runner: ModelRunner, memory: KvMemory, recorded: _Recorded) -> float:
    """How far replayed logits are from computed ones, in standard deviations; what the memory holds is lost."""
    length, shape = BLOCK_TOKENS + 1, recorded.step.shape
    count = min(max(1, shape.sequences - 1), memory.blocks // blocks_for(length))
    if not count or shape.blocks < blocks_for(length):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    vocabulary = runner.model.config.get_text_config(decoder=True).vocab_size
    prompts = torch.randint(0, vocabulary, (count, length), generator=generator).tolist()
    sequences = [selfcheck.sequence_of(prompt, first_block=2 * number) for number, prompt in enumerate(prompts)]
    memory.data.narrow(3, 0, 2 * count * BLOCK_TOKENS).normal_()
    plan = tuple(Chunk(sequence, length - 1, 1, True) for sequence in sequences)
    computed = runner.forward(plan, list(range(count)), memory).float()
    replayed = ReplayingRunner(runner, memory, [recorded]).forward(plan, list(range(count)), memory).float()
    return selfcheck.apart(computed, replayed)
