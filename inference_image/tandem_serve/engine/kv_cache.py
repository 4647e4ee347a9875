"""The KV memory of the running sequences.

The scheduler sees only `KvCache`: it reserves all tokens of a sequence at admission, so that nothing can run out of
memory later, and gives them back at the end. `ContiguousKvCache` keeps one tensor per sequence, with the tokens of a
head in one piece: attention reads them in order, and a hand-off sends the first n of them without a copy.
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
    """The KV of one sequence: `data` is [layers, 2 (keys, values), kv_heads, capacity, head_dim].

    The views that attention needs in every step are made once: `both[layer]` is [2, kv_heads, capacity, head_dim],
    `keys[layer]` and `values[layer]` are [1, kv_heads, capacity, head_dim].
    """

    __slots__ = ("both", "capacity", "data", "keys", "values")

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.capacity = data.shape[3]
        self.both = data.unbind(0)
        self.keys = data[:, 0:1].unbind(0)
        self.values = data[:, 1:2].unbind(0)


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
        shape = (layout.layers, 2, layout.kv_heads, tokens, layout.head_dim)
        kv = SequenceKv(torch.empty(shape, dtype=layout.dtype, device=layout.device))
        self.used_tokens += tokens
        return kv

    def free(self, kv: SequenceKv) -> None:
        """See `KvCache.free`."""
        self.used_tokens -= kv.capacity
