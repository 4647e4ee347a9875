"""KV memory to bytes and back.

A segment is [layers, keys and values, kv_heads, tokens, head_dim], its tokens a multiple of the blocks. It is copied
out of the memory and hashed in one go, small enough to stay in a CPU's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem_serve.engine.blocks import BLOCK_TOKENS
from tandem_serve.engine.kv_cache import KvLayout, SequenceKv
from tandem_serve.engine.transfer.identity import (
    FRAME_BYTES,
    LENGTH,
    MAC_BYTES,
    PROTOCOL,
    KvIdentity,
    Proof,
    encode_header,
)
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
        kv.write(self.first, flat.view(layout.layers, 2, layout.kv_heads, self.count, layout.head_dim))


class KvMessage:
    """See `KvSender`."""

    def __init__(self, lease: Lease, *, first: int, who: KvIdentity, layout: KvLayout, token: str) -> None:
        stop = len(lease.prompt) - 1
        self.header = encode_header(who, prompt=lease.prompt, first=first)
        self.segments = tuple(segments(layout, first, stop))
        payload = layout.bytes_per_token * (stop - first)
        self.size = len(self.header) + payload + FRAME_BYTES * len(self.segments)
        self._lease = lease
        self._proof = Proof(token, self.header)
        longest = max((count for _, count in self.segments), default=0)
        size = layout.bytes_per_token * longest + FRAME_BYTES
        self._buffers = tuple(np.empty(size, dtype=np.uint8) for _ in range(2))

    def frame(self, number: int) -> memoryview:
        """See `KvSender`."""
        first, count = self.segments[number]
        kv = self._lease.kv
        if kv is None:
            raise ValueError(f"the KV from token {first} is not there")
        length = kv.memory.layout.bytes_per_token * count
        out = self._buffers[number % 2][: length + FRAME_BYTES]
        data = out[LENGTH.size : LENGTH.size + length]
        _gather(kv, first, count, data)
        frame = out.data
        LENGTH.pack_into(frame, 0, length)
        frame[-MAC_BYTES:] = self._proof.mac(data.data, first=first)
        return frame


def _gather(kv: SequenceKv, first: int, count: int, out: NDArray[np.uint8]) -> None:
    """Copies tokens out of the memory. By numpy on a CPU: torch would start threads of its own for each caller."""
    layout = kv.memory.layout
    shaped = out.reshape(layout.layers, 2, layout.kv_heads, count, -1)
    for token, row, number in kv.pieces(first, first + count):
        part = kv.memory.data.narrow(3, row, number)
        plain = (part if part.device.type == "cpu" else part.cpu()).view(torch.uint8).numpy()
        shaped[:, :, :, token - first : token - first + number] = plain
