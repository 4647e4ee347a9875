"""The KV memory of the running sequences.

The scheduler sees only `KvCache`: it reserves all tokens of a sequence at admission, so that nothing can run out of
memory later, and gives them back at the end. `ContiguousKvCache` keeps one tensor per sequence, token-major, so that
the first n tokens of a layer are one piece of memory: a hand-off sends them without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KvLayout:
    """Shape and type of the KV of one token. Bytes per token = 2 x layers x kv_heads x head_dim x item size."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all layers, keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class SequenceKv:
    """The KV of one sequence: `data` is [layers, 2 (keys, values), capacity, kv_heads, head_dim]."""

    __slots__ = ("capacity", "data")

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.capacity = data.shape[2]

    def write(self, *, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Stores keys and values, each [tokens, kv_heads, head_dim], at positions start, start+1, ..."""
        end = start + keys.shape[0]
        plane = self.data[layer]
        plane[0, start:end] = keys
        plane[1, start:end] = values

    def read(self, *, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of positions 0..end-1, each [end, kv_heads, head_dim]."""
        plane = self.data[layer]
        return plane[0, :end], plane[1, :end]


class KvCache(Protocol):
    """What the scheduler needs of a KV memory."""

    @property
    def capacity_tokens(self) -> int:
        """Tokens that fit when nothing is in use."""

    @property
    def used_tokens(self) -> int:
        """Tokens reserved now."""

    def allocate(self, tokens: int) -> SequenceKv | None:
        """Reserves room for `tokens`; None when there is not enough just now."""

    def free(self, kv: SequenceKv) -> None:
        """Gives the room back. `kv` must not be used afterwards."""


class ContiguousKvCache:
    """A `KvCache` with one tensor per sequence, bounded by a number of tokens. Used by the engine thread only."""

    def __init__(self, layout: KvLayout, *, capacity_tokens: int) -> None:
        self.layout = layout
        self.capacity_tokens = capacity_tokens
        self.used_tokens = 0

    def allocate(self, tokens: int) -> SequenceKv | None:
        """See `KvCache.allocate`. The memory is not touched: on the CPU it becomes resident as tokens arrive."""
        if self.used_tokens + tokens > self.capacity_tokens:
            return None
        layout = self.layout
        shape = (layout.layers, 2, tokens, layout.kv_heads, layout.head_dim)
        kv = SequenceKv(torch.empty(shape, dtype=layout.dtype, device=layout.device))
        self.used_tokens += tokens
        return kv

    def free(self, kv: SequenceKv) -> None:
        """See `KvCache.free`."""
        self.used_tokens -= kv.capacity
