"""Runs the model on the packed tokens of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem_serve.engine import attention
from tandem_serve.engine.device import set_threads, to_device
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv
from tandem_serve.engine.packed_linear import pack_linears
from tandem_serve.engine.scheduler import Chunk
from tandem_serve.engine.sequence import Sequence


class Runner(Protocol):
    """Turns a plan into one forward pass. The engine thread is the only caller."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> Tensor:
        """Logits [len(rows), vocabulary] at the places `rows` of the packed row; the chunks' KV is stored in `memory`.

        `rows` are indices into the concatenation of all chunks, chunks of one token first. May be empty.
        """


@dataclass(frozen=True, slots=True)
class Row:
    """What the model computes in one step."""

    tokens: Tensor
    """[1, T]."""
    positions: Tensor
    """[1, T]."""
    wanted: Tensor
    """Places in the row whose logits are wanted."""
    packed: attention.PackedBatch


class ModelRunner:
    """Runs any step. On a GPU it returns when the work is queued there."""

    def __init__(
        self, model: PreTrainedModel, *, as_gpu: bool | None = None, threads: Callable[[int], int] | None = None
    ) -> None:
        """`threads` says how many a step of so many tokens takes on a CPU."""
        attention.register()
        model.set_attn_implementation(attention.NAME)
        pack_linears(model)
        self.model = model
        self.device = model.device
        self._as_gpu = attention.attends_as_gpu(model.device) if as_gpu is None else as_gpu
        self._threads = threads if model.device.type == "cpu" else None
        self.windows: dict[int, int | None] = {}
        """By layer: the sliding window that the model asked for in the last step."""

    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> Tensor:
        """See `Runner`."""
        row = self.prepare(plan, rows, memory)
        logits = self.compute(row)
        self.windows = row.packed.windows
        return logits

    def prepare(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> Row:
        """A plan as the numbers that the model computes with, and torch set to as many threads as that takes."""
        parts = [(kv_of(chunk.sequence, memory), chunk.start, chunk.count) for chunk in plan]
        packed, order = attention.pack(memory, parts, as_gpu=self._as_gpu)
        tokens: list[int] = []
        positions: list[int] = []
        for chunk in (plan[place] for place in order):
            stop = chunk.start + chunk.count
            tokens.extend(chunk.sequence.tokens[chunk.start : stop])
            positions.extend(range(chunk.start, stop))
        if self._threads is not None:
            set_threads(self._threads(len(tokens)))
        # Only chunks of one token change places, and those stand before all others.
        moved = {place: index for index, place in enumerate(order)}
        wanted = [moved.get(row, row) for row in rows]
        return Row(self._put([tokens]), self._put([positions]), self._put(wanted), packed)

    @torch.inference_mode()
    def compute(self, row: Row) -> Tensor:
        """Logits of the places that are wanted: [places, vocabulary]."""
        output = self.model(
            input_ids=row.tokens,
            position_ids=row.positions,
            use_cache=False,
            logits_to_keep=row.wanted,
            packed=row.packed,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _put(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return to_device(np.array(numbers, dtype=np.int64), self.device)


def kv_of(sequence: Sequence, memory: KvMemory) -> SequenceKv:
    """The views of a sequence's blocks, made when they are first needed."""
    if sequence.kv is None:
        sequence.kv = memory.view(sequence.blocks)
    return sequence.kv
