"""KV memory to bytes and back.

A segment is [layers, keys and values, tokens, kv_heads, head_dim], its tokens a multiple of the blocks. It is copied
out of the memory and hashed in one go, small enough to stay in a CPU's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.kv_cache import KvLayout, SequenceKv
from tandem_serve.engine.transfer.identity import MAC_BYTES, PROTOCOL, KvIdentity, Proof, encode_header
from tandem_serve.engine.transfer.lease import Lease

SEGMENT_BYTES = 2 << 20
SEGMENT_TOKENS = 128
"""The most of one segment; fewer where they take more than SEGMENT_BYTES."""
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def identity(layout: KvLayout, *, model_digest: str, rope: dict[str, Any]) -> KvIdentity:
    """The identity of a loaded model's KV."""
    return KvIdentity(
        protocol=PROTOCOL,
        model_digest=model_digest,
        dtype=_NAMES[layout.dtype],
        layers=layout.layers,
        kv_heads=layout.kv_heads,
        head_dim=layout.head_dim,
        rope=hashlib.sha256(json.dumps(rope, sort_keys=True, default=str).encode()).hexdigest()[:16],
    )


def segments(layout: KvLayout, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """(first token, number) of the segments of a hand-off."""
    blocks = SEGMENT_BYTES // (layout.bytes_per_token * BLOCK_TOKENS)
    most = min(max(1, blocks) * BLOCK_TOKENS, SEGMENT_TOKENS)
    while first < stop:
        count = min(most - first % BLOCK_TOKENS, stop - first)
        yield first, count
        first += count


def total_bytes(layout: KvLayout, header: bytes, first: int, stop: int) -> int:
    """Length of a whole hand-off."""
    count = sum(1 for _ in segments(layout, first, stop))
    return len(header) + layout.bytes_per_token * (stop - first) + MAC_BYTES * count


@dataclass(frozen=True, kw_only=True)
class KvPart:
    """The checked KV of `count` tokens from `first`."""

    first: int
    count: int
    data: NDArray[np.uint8]
    layout: KvLayout

    def copy_into(self, kv: SequenceKv) -> None:
        """Stores it in a sequence's memory."""
        layout = self.layout
        flat = torch.from_numpy(self.data).view(layout.dtype)
        kv.write(self.first, flat.view(layout.layers, 2, self.count, layout.kv_heads, layout.head_dim))


class KvMessage:
    """See `KvSender`."""

    def __init__(self, lease: Lease, *, first: int, who: KvIdentity, layout: KvLayout, token: str) -> None:
        stop = len(lease.prompt) - 1
        self.header = encode_header(who, prompt=lease.prompt, first=first)
        self._segments = tuple(segments(layout, first, stop))
        self.parts = len(self._segments)
        self.tokens = stop - first
        self.size = total_bytes(layout, self.header, first, stop)
        self._kv = lease.kv
        self._proof = Proof(token, self.header)
        self._buffers = tuple(_buffer(layout, self._segments) for _ in range(2))

    def segment(self, number: int) -> tuple[memoryview, bytes]:
        """See `KvSender`."""
        first, count = self._segments[number]
        out = _gather(self._kv, first, count, self._buffers[number % 2])
        data = out.data
        return data, self._proof.mac(data, first=first)


def _buffer(layout: KvLayout, parts: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    return np.empty(layout.bytes_per_token * max((count for _, count in parts), default=0), dtype=np.uint8)


def _gather(kv: SequenceKv, first: int, count: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copies tokens out of the memory. By numpy on a CPU: torch would start threads of its own for each caller."""
    layout = kv.memory.layout
    out = buffer[: layout.bytes_per_token * count]
    shaped = out.reshape(layout.layers, 2, count, -1)
    for token, row, number in kv.pieces(first, first + count):
        part = kv.memory.data.narrow(2, row, number)
        plain = (part if part.device.type == "cpu" else part.cpu()).flatten(3).view(torch.uint8).numpy()
        shaped[:, :, token - first : token - first + number] = plain
    return out
