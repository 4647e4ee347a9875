"""Sequences that get one token each attend together, over copies of their blocks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for
from tandem_serve.engine.device import to_device
from tandem_serve.engine.kv_cache import KvMemory, SequenceKv

_COPIED = 4 << 20
"""Bytes of one layer that are copied at once on a CPU: they stay in its cache. Measured with 100 to 1,000 tokens."""
_FEW_BLOCKS = 16  # of the longest: filling up shorter ones costs less than another call
_LONG = 2**17
"""Numbers of a sequence's keys in a layer from which on a call of its own costs no more than the copy."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the spans see in layers of one sliding window."""

    blocks: Tensor
    """Which of `KvMemory.whole`: keys, then values, of each span's heads; [2 * spans * kv_heads * blocks]."""
    mask: Tensor
    """Which of their tokens are seen: [spans, 1, 1, tokens]."""
    added: Tensor
    """The same to add to scores: 0 or minus infinity, in the number type of the KV."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The blocks of some spans of one token, filled up to the longest with the block of zeros."""

    memory: KvMemory
    blocks: Tensor
    """[spans, blocks]."""
    stops: Tensor
    """Position after the last token of each: [spans]."""
    _seen: dict[int | None, Seen] = field(default_factory=dict)
    """By sliding window, made when the first layer asks."""

    def seen(self, window: int | None) -> Seen:
        """What is seen of the last `window` tokens, of all where it is None."""
        if window not in self._seen:
            self._seen[window] = self._look(window)
        return self._seen[window]

    def read(self, layer: int, window: int | None) -> tuple[Tensor, Tensor]:
        """Copies of keys and values, each [spans, kv_heads, tokens, head_dim]."""
        layout, seen = self.memory.layout, self.seen(window)
        copied = self.memory.whole[layer].index_select(0, seen.blocks)
        keys, values = copied.view(2, len(self.stops), layout.kv_heads, -1, layout.head_dim).unbind(0)
        return keys, values

    def _look(self, window: int | None) -> Seen:
        device, count = self.blocks.device, self.blocks.shape[1]
        blocks, stops = self.blocks, self.stops[:, None]
        columns = torch.arange(count, device=device)[None]
        if window is not None and blocks_for(window) + 1 < count:
            first = torch.div((stops - window).clamp_min(0), BLOCK_TOKENS, rounding_mode="floor")
            columns = first + torch.arange(blocks_for(window) + 1, device=device)
            inside = columns < count
            blocks = blocks.gather(1, columns.clamp_max(count - 1)).where(inside, self.memory.zeros)
        places = (columns[..., None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS, device=device)).flatten(1)
        mask = places < stops
        if window is not None:
            mask &= places >= stops - window
        mask = mask[:, None, None]
        added = torch.zeros(mask.shape, dtype=self.memory.layout.dtype, device=device).masked_fill_(
            ~mask, float("-inf")
        )
        of_heads = self.memory.first_of_heads[:, None, :, None] + blocks[None, :, None, :]
        return Seen(of_heads.flatten(), mask, added)


@dataclass(frozen=True, slots=True)
class Group:
    """Spans that attend together."""

    places: Tensor | None
    """Which of the spans of one token; None: all of them, in their order."""
    gathered: Gathered


def gather(memory: KvMemory, spans: Sequence[tuple[SequenceKv, int]]) -> Gathered:
    """Spans of one token as (kv, position after it)."""
    stops = np.array([stop for _, stop in spans], dtype=np.int64)
    table = np.full((len(spans), blocks_for(int(stops.max()))), memory.zeros, dtype=np.int64)
    for line, (kv, stop) in zip(table, spans, strict=True):
        fill_line(line, kv, stop)
    device = memory.layout.device
    return Gathered(memory, to_device(table, device), to_device(stops, device))


def fill_line(line: NDArray[np.int64], kv: SequenceKv, stop: int) -> None:
    """Writes the blocks of the tokens before `stop` to the beginning of a line of `Gathered.blocks`."""
    count = blocks_for(stop)
    line[:count] = kv.table[:count]


def lots(memory: KvMemory, stops: Sequence[int]) -> list[list[int]]:
    """Which spans attend together on a CPU: short ones of like length, and no more than the cache takes. One: alone."""
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
