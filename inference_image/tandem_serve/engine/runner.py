"""Runs the model on the packed tokens of one step."""

from __future__ import annotations

from collections.abc import Callable
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

    @torch.inference_mode()
    def forward(self, plan: tuple[Chunk, ...], rows: list[int], memory: KvMemory) -> Tensor:
        """See `Runner`."""
        tokens: list[int] = []
        positions: list[int] = []
        parts: list[tuple[SequenceKv, int, int]] = []
        for chunk in plan:
            sequence, stop = chunk.sequence, chunk.start + chunk.count
            kv = kv_of(sequence, memory)
            tokens.extend(sequence.tokens[chunk.start : stop])
            positions.extend(range(chunk.start, stop))
            parts.append((kv, chunk.start, chunk.count))
        if self._threads is not None:
            set_threads(self._threads(len(tokens)))
        packed = attention.pack(memory, parts, as_gpu=self._as_gpu)
        output = self.model(
            input_ids=self._put([tokens]),
            position_ids=self._put([positions]),
            use_cache=False,
            logits_to_keep=self._put(rows),
            packed=packed,
        )
        self.windows = packed.windows
        logits: Tensor = output.logits[0]
        return logits

    def _put(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return to_device(np.array(numbers, dtype=np.int64), self.device)


def kv_of(sequence: Sequence, memory: KvMemory) -> SequenceKv:
    """The views of a sequence's blocks, made when they are first needed."""
    if sequence.kv is None:
        sequence.kv = memory.view(sequence.blocks)
    return sequence.kv
