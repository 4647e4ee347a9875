"""Sequences that get one token each attend in lots: short ones together, over copies of their blocks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem_serve.engine import kernels
from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.device import to_device
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv

_COPIED = 4 << 20
"""Bytes of one layer that are copied at once on a CPU: they stay in its cache. Measured with 100 to 1,000 tokens."""
_FEW_BLOCKS = 16  # of the longest: filling up shorter ones costs less than another call
_LONG = 2**17
"""Numbers of a sequence's keys in a layer from which on a call of its own costs no more than the copy."""
_COPY = -1  # in place of a row


@dataclass(frozen=True, slots=True)
class Rules:
    """How one layer attends."""

    layer: int
    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    """Of each head: see `kernels.special`."""

    @property
    def plain(self) -> bool:
        """Whether torch's own attention does it."""
        return self.softcap is None and self.sinks is None

    @property
    def numbers(self) -> kernels.RuleNumbers:
        """The same for `kernels`."""
        return self.scaling, self.window, self.softcap, self.sinks


@dataclass(frozen=True, slots=True)
class Singles:
    """Spans of one token each, lot after lot."""

    memory: KvMemory
    blocks: Tensor
    """Of the lots that are copied: [spans, blocks of the longest], filled up with the block of zeros; flat."""
    stops: Tensor
    """Position after the token of each span: [spans]."""
    lots: Tensor
    """Of each lot: how many spans and blocks; where in the memory its only span begins, or -1: it is copied; where that
    span ends. Always in the memory of the CPU."""
    _seen: dict[int | None, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """By sliding window, made when the first layer asks."""

    def attend(self, query: Tensor, rules: Rules) -> Tensor:
        """Query [spans, kv_heads, group, head_dim] -> the same."""
        window, layer = rules.window, rules.layer
        if window not in self._seen:
            self._seen[window] = self._look(window)
        return kernels.call(
            kernels.attend,
            query,
            (self.memory.rows[layer], self.memory.whole[layer]),
            self._seen[window],
            self.lots,
            rules.numbers,
        )

    def _look(self, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
        of_heads, mask = kernels.call(
            kernels.look,
            self.blocks,
            self.stops,
            self.lots,
            self.memory.first_of_heads,
            (window, self.memory.zeros, BLOCK_TOKENS),
        )
        added = torch.zeros_like(mask, dtype=self.memory.layout.dtype).masked_fill_(~mask, float("-inf"))
        return of_heads, mask, added


def one_lot(memory: KvMemory, blocks: Tensor, stops: Tensor) -> Singles:
    """All spans together, over copies of their blocks [spans, blocks]."""
    return Singles(memory, blocks.flatten(), stops, torch.tensor([[*blocks.shape, _COPY, 0]]))


def in_lots(
    memory: KvMemory, spans: Sequence[tuple[SequenceKv, int]], lots: Sequence[Sequence[int]], *, copied: bool
) -> Singles:
    """Spans as (kv, position after the token); `lots` says which of them attend together.

    `copied`: also those are whose only span could be read where it is.
    """
    stops: list[int] = []
    tables, sizes = [], []
    for lot in lots:
        ends = [spans[place][1] for place in lot]
        stops += ends
        row = _row(*spans[lot[0]]) if len(lot) == 1 and not copied else _COPY
        sizes.append([len(lot), blocks_for(max(ends)), row, ends[0]])
        if row == _COPY:
            table = np.full((len(lot), sizes[-1][1]), memory.zeros, dtype=np.int64)
            for line, place in zip(table, lot, strict=True):
                fill_line(line, *spans[place])
            tables.append(table.ravel())
    device = memory.layout.device
    blocks = np.concatenate(tables) if tables else np.empty(0, dtype=np.int64)
    of_spans = to_device(np.array(stops, dtype=np.int64), device)
    return Singles(memory, to_device(blocks, device), of_spans, torch.tensor(sizes))


def _row(kv: SequenceKv, stop: int) -> int:
    """Where a span begins that is one run."""
    return kv.runs[0].row if kv.runs[0].count >= stop else _COPY


def fill_line(line: NDArray[np.int64], kv: SequenceKv, stop: int) -> None:
    """Writes the blocks of the tokens before `stop` to the beginning of a line of `Singles.blocks`."""
    count = blocks_for(stop)
    line[:count] = kv.table[:count]


def choose_lots(memory: KvMemory, stops: Sequence[int]) -> list[list[int]]:
    """Which spans attend together on a CPU: short ones of like length, and no more than the cache takes."""
    layout = memory.layout
    most = max(1, _COPIED // (layout.bytes_per_token // layout.layers * BLOCK_TOKENS))
    found: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(stops)), key=lambda place: stops[place], reverse=True):
        count = blocks_for(stops[place])
        short = longest * BLOCK_TOKENS * layout.kv_heads * layout.head_dim <= _LONG
        alike = 2 * count >= longest or longest <= _FEW_BLOCKS
        if found and short and alike and (len(found[-1]) + 1) * longest <= most:
            found[-1].append(place)
        else:
            found.append([place])
            longest = count
    return [sorted(lot) for lot in found]
