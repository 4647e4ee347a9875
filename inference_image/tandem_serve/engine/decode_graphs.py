"""Decode steps of fixed shapes that a GPU replays: the start of a step's thousand kernels is then one call.

A step of a shape gives the next token to so many sequences of at most so many blocks. All that differs from one step to
the next stands in one tensor of numbers, which is written first; places that are left over compute what nobody reads.
The steps are recorded when the server starts. A plan runs as the smallest one that it fits into, or else as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine.attention import PackedBatch
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.device import to_device
from tandem_serve.engine.kv_cache import KvLayout, KvMemory
from tandem_serve.engine.replaying import Plan, Recording, Words, recorded, step_of
from tandem_serve.engine.runner import ModelRunner, Runner, kv_of
from tandem_serve.engine.singles import fill_line, one_lot

log = logging.getLogger(__name__)
MOST_TOKENS = 65_536
"""Of all places of a recorded step together: with more, computing takes longer than starting the kernels."""
_FEWEST_BLOCKS = 16
_WORDS = Words(done="decode steps recorded", failed="decode steps run without CUDA graphs: they cannot be recorded")
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

    def write(self, plan: Plan) -> None:
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
    run: Step

    def replay(self, plan: Plan, rows: list[int]) -> Tensor | None:
        """See `Replay`."""
        shape = self.step.shape
        if len(plan) > shape.sequences or max(blocks_for(chunk.start + 1) for chunk in plan) > shape.blocks:
            return None
        self.step.write(plan)
        logits = self.run()
        if rows == list(range(len(plan))):
            return logits[: len(plan)]
        return logits[to_device(np.array(rows, dtype=np.int64), logits.device)]


def bytes_for(runner: ModelRunner, layout: KvLayout, recorder: Recorder, sizes: tuple[Shape, ...]) -> int | None:
    """Memory to keep free of KV for recording steps of these shapes. None, and a line in the log: it cannot be done."""
    memory = KvMemory(layout, capacity_tokens=BLOCK_TOKENS)
    try:
        step = DecodeStep(runner.model, memory, sizes[0], _numbers(sizes, layout.device))
        step.write(())
        return recorder.bytes_for(step, count=len(sizes))
    except Exception as error:
        log.warning(_WORDS.failed, extra={"reason": f"{type(error).__name__}: {error}"})
        return None


def record(runner: ModelRunner, memory: KvMemory, recorder: Recorder, sizes: tuple[Shape, ...]) -> Runner:
    """A runner that replays steps of these shapes; see `recorded`."""
    return recorded(runner, memory, lambda: _record(runner, memory, recorder, sizes), _WORDS)


def _record(runner: ModelRunner, memory: KvMemory, recorder: Recorder, sizes: tuple[Shape, ...]) -> Recording:
    numbers = _numbers(sizes, memory.layout.device)
    steps = []
    for shape in sizes:
        step = DecodeStep(runner.model, memory, shape, numbers)
        step.write(())
        steps.append(_Recorded(step, recorder.record(step)))
    smallest_first = sorted(steps, key=lambda one: one.step.shape.places)

    def replay(plan: Plan, rows: list[int]) -> Tensor | None:
        each = (one.replay(plan, rows) for one in smallest_first)
        return next((logits for logits in each if logits is not None), None)

    tried = ((one, step_of(runner.model, memory, _lengths(one.step.shape))) for one in steps)
    return Recording(replay, tuple((one.replay, plan) for one, plan in tried if plan))


def _lengths(shape: Shape) -> list[int]:
    """Texts to try a recorded step with: one less than it has room for, so that something is left over."""
    return [BLOCK_TOKENS + 1] * max(1, shape.sequences - 1) if shape.blocks > 1 else []


def _numbers(sizes: tuple[Shape, ...], device: torch.device) -> Tensor:
    """Room for the numbers of any of the shapes: one runs at a time."""
    return torch.zeros(max(shape.numbers for shape in sizes), dtype=torch.int64, device=device)
