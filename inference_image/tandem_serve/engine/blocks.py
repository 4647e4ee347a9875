"""Which blocks of the KV memory are in use, and which still hold the KV of a text that may come again. Pure.

A full block is known by a digest over its tokens and all tokens before them, so equal beginnings of prompts share
blocks. A block that nobody uses keeps its KV until its place is needed; the longest unused ones go first. Blocks that
are taken together stand side by side wherever possible: attention then reads them in one piece, without a copy.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 16
_IN_USE = np.iinfo(np.int64).max


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a full block: SHA-256 of the name of the block before it and its own tokens."""
    return hashlib.sha256(before + struct.pack(f"<{len(tokens)}I", *tokens)).digest()


class BlockPool:
    """Counts the users of every block; the engine thread owns it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        """Blocks with at least one user."""
        self._users = np.zeros(count, dtype=np.int64)
        self._last_use = np.zeros(count, dtype=np.int64)  # 0: nothing worth keeping
        self._digests: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        self._time = 0

    def allocate(self, count: int) -> list[int] | None:
        """Takes `count` blocks for one user; None when fewer are unused. What they held is forgotten."""
        if count > self.count - self.used:
            return None
        taken: list[int] = []
        while len(taken) < count:
            taken += self._take(*self._best_place(count - len(taken)))
        return taken

    def find(self, name: bytes) -> int | None:
        """The block that holds this KV, in use or not."""
        return self._known.get(name)

    def hold(self, blocks: Iterable[int]) -> None:
        """One more user for each."""
        for block in blocks:
            self.used += not self._users[block]
            self._users[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user fewer for each. Of equally old blocks the last of a text goes first, so that beginnings stay."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            self.used -= 1
            self._time += 1
            self._last_use[block] = self._time if block in self._digests else 0

    def register(self, block: int, name: bytes) -> None:
        """The block's KV is complete. When another block holds the same, that one stays the known one."""
        if name not in self._known:
            self._known[name] = block
            self._digests[block] = name

    def _take(self, first: int, count: int) -> range:
        blocks = range(first, first + count)
        for block in blocks:
            name = self._digests.pop(block, None)
            if name is not None:
                del self._known[name]
        self._users[first : first + count] = 1
        self.used += count
        return blocks

    def _best_place(self, count: int) -> tuple[int, int]:
        """(first, number) of unused neighbours: `count` of them whose youngest is oldest, else the longest gap."""
        cost = np.where(self._users > 0, _IN_USE, self._last_use)
        worst = _window_maxima(cost, count)
        best = int(worst.argmin()) if len(worst) else 0
        if len(worst) and worst[best] < _IN_USE:
            return best, count
        edges = np.flatnonzero(np.diff(np.concatenate(([True], self._users > 0, [True])).astype(np.int8)))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        longest = int(lengths.argmax())
        return int(starts[longest]), int(lengths[longest])


def _window_maxima(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """The maximum of every `width` neighbours; empty when there are fewer values."""
    if len(values) < width:
        return values[:0]
    reach, maxima = 1, values
    while 2 * reach <= width:
        maxima = np.maximum(maxima[:-reach], maxima[reach:])
        reach *= 2
    rest = width - reach
    return np.maximum(maxima[: len(maxima) - rest], maxima[rest:])
