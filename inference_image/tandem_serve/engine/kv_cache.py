"""The KV memory: one tensor of blocks for all sequences, and views of it for one sequence.

A head's tokens stand in a row, [tokens, head_dim]; a block is 16 of them. A sequence's blocks are mostly neighbours
(see `blocks`), so its KV is one run of each row, or two when it shares its beginning with others.

What the last block of a sequence holds beyond its tokens is zero: blocks are also read whole, and a mask alone would
not keep out what is no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem_serve.engine.blocks import BLOCK_TOKENS, blocks_for


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


class KvMemory:
    """The blocks, and two more that no sequence has. On the CPU a block becomes resident when it is first written."""

    def __init__(self, layout: KvLayout, *, capacity_tokens: int) -> None:
        self.layout = layout
        self.blocks = blocks_for(capacity_tokens)
        self.zeros = self.blocks
        """A block of zeros, for reading where there is nothing to read."""
        self.waste = self.blocks + 1
        """A block that is never read, for what nobody wants."""
        shape = (layout.layers, 2, layout.kv_heads, (self.blocks + 2) * BLOCK_TOKENS, layout.head_dim)
        self.data = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self.data.narrow(3, self.zeros * BLOCK_TOKENS, BLOCK_TOKENS).zero_()
        self.rows = self.data.unbind(0)
        """Of each layer: [2 (keys, values), kv_heads, tokens of all blocks, head_dim]."""
        self.whole = tuple(rows.view(-1, BLOCK_TOKENS * layout.head_dim) for rows in self.rows)
        """The same, block by block: keys of the first head, of the second, ..., then values; [blocks, numbers]."""
        heads = torch.arange(2 * layout.kv_heads, device=layout.device) * (self.blocks + 2)
        self.first_of_heads = heads.view(2, layout.kv_heads)
        """Which of `whole` is the first block of keys and values of each head."""

    def view(self, blocks: Sequence[int]) -> SequenceKv:
        """The KV of a sequence with these blocks."""
        return SequenceKv(self, tuple(blocks))


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens of a sequence that stand side by side: `count` from `first`, in the memory from `row`.

    `keys[layer]` and `values[layer]` are views of them, [1, kv_heads, count, head_dim].
    """

    first: int
    row: int
    count: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class SequenceKv:
    """Views of one sequence's blocks, made once."""

    __slots__ = ("blocks", "memory", "runs", "table")

    def __init__(self, memory: KvMemory, blocks: tuple[int, ...]) -> None:
        self.memory = memory
        self.blocks = blocks
        self.table: NDArray[np.int64] = np.array(blocks, dtype=np.int64)
        """The same as an array."""
        self.runs = tuple(_runs(memory, blocks))

    def row(self, token: int) -> int:
        """Where in the memory a token stands."""
        block, offset = divmod(token, BLOCK_TOKENS)
        return self.blocks[block] * BLOCK_TOKENS + offset

    def pieces(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Tokens first to stop as neighbours in memory: (token, row, count)."""
        for run in self.runs:
            begin, end = max(first, run.first), min(stop, run.first + run.count)
            if begin < end:
                yield begin, run.row + begin - run.first, end - begin

    def read(self, layer: int, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens first to stop, each [1, kv_heads, tokens, head_dim]; views when in one run.

        Measured on a CPU: joining two runs costs less than attending to each and joining the results.
        """
        parts = []
        for run in self.runs:
            begin, end = max(first - run.first, 0), min(stop - run.first, run.count)
            if begin < end:
                keys, values = run.keys[layer], run.values[layer]
                parts.append((keys.narrow(2, begin, end - begin), values.narrow(2, begin, end - begin)))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([keys for keys, _ in parts], dim=2), torch.cat([values for _, values in parts], dim=2)

    def write(self, first: int, tokens: Tensor) -> None:
        """Stores the KV of tokens from `first`; `tokens` is [layers, 2, kv_heads, count, head_dim]."""
        stop = first + tokens.shape[3]
        self.begin(first, stop)
        for token, row, count in self.pieces(first, stop):
            self.memory.data[:, :, :, row : row + count] = tokens[:, :, :, token - first : token - first + count]

    def begin(self, first: int, stop: int) -> None:
        """For who writes tokens first to stop: when the last block begins among them, zeroes the rest of it."""
        rest = -stop % BLOCK_TOKENS
        if rest and stop + rest - BLOCK_TOKENS >= first:
            self.memory.data.narrow(3, self.row(stop - 1) + 1, rest).zero_()


def _runs(memory: KvMemory, blocks: tuple[int, ...]) -> Iterator[Run]:
    start = 0
    for index in range(1, len(blocks) + 1):
        if index < len(blocks) and blocks[index] == blocks[index - 1] + 1:
            continue
        row, count = blocks[start] * BLOCK_TOKENS, (index - start) * BLOCK_TOKENS
        part = memory.data.narrow(3, row, count)
        yield Run(start * BLOCK_TOKENS, row, count, part[:, 0:1].unbind(0), part[:, 1:2].unbind(0))
        start = index
