"""The bytes of a hand-off.

8 bytes little-endian header length, a JSON header in safetensors' layout, the tensors, 32 bytes SHA-256 of all before.
Tensors are `<layer>.k` and `<layer>.v`, each [tokens, kv_heads, head_dim]. The header's metadata say whose KV this is
(`KvIdentity`) and of which prompt; a receiver takes over nothing that does not match in every point.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tandem_serve.engine.kv_cache import KvLayout, SequenceKv
from tandem_serve.engine.transfer.lease import KvEncoding, Lease

PROTOCOL = "tandem-kv/2"
TRAILER_BYTES = 32
MAX_HEADER_BYTES = 1 << 20
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class KvRefusedError(Exception):
    """The bytes are not the KV that is wanted; `reason` is a short word for the metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class KvIdentity:
    """What both sides must agree on, besides the prompt."""

    protocol: str
    model_digest: str
    dtype: str
    layers: int
    kv_heads: int
    head_dim: int
    rope: str


def identity(layout: KvLayout, *, model_digest: str, rope: dict[str, Any]) -> KvIdentity:
    """The identity of a loaded model's KV."""
    return KvIdentity(
        protocol=PROTOCOL,
        model_digest=model_digest,
        dtype=_NAMES[layout.dtype],
        layers=layout.layers,
        kv_heads=layout.kv_heads,
        head_dim=layout.head_dim,
        rope=json.dumps(rope, sort_keys=True, default=str),
    )


def prompt_digest(prompt: Sequence[int]) -> str:
    """SHA-256 of the tokens as little-endian 32-bit numbers."""
    return hashlib.sha256(struct.pack(f"<{len(prompt)}I", *prompt)).hexdigest()


def expected_bytes(layout: KvLayout, tokens: int) -> int:
    """Bytes of the tensors of a hand-off of `tokens` tokens."""
    return layout.bytes_per_token * tokens


def encode_header(who: KvIdentity, *, prompt: Sequence[int]) -> bytes:
    """Length and header of a hand-off of the whole prompt."""
    tokens = len(prompt)
    shape = [tokens, who.kv_heads, who.head_dim]
    size = who.kv_heads * tokens * who.head_dim * (4 if who.dtype == "F32" else 2)
    metadata = {name: str(value) for name, value in asdict(who).items()}
    metadata |= {"num_tokens": str(tokens), "prompt_digest": prompt_digest(prompt)}
    header: dict[str, Any] = {"__metadata__": metadata}
    for number in range(2 * who.layers):
        name = f"{number // 2}.{'kv'[number % 2]}"
        header[name] = {"dtype": who.dtype, "shape": shape, "data_offsets": [number * size, (number + 1) * size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def encode(lease: Lease, *, who: KvIdentity, layout: KvLayout) -> KvEncoding:
    """A lease as it goes over the wire, but for the trailer."""
    tokens = len(lease.prompt)
    return KvEncoding(
        header=encode_header(who, prompt=lease.prompt),
        data_bytes=expected_bytes(layout, tokens),
        planes=_planes(lease.kv, tokens),
    )


def _planes(kv: SequenceKv, tokens: int) -> Iterator[memoryview]:
    """The bytes, run by run, in the order of the header; on a CPU they are views of the KV itself."""
    for layer in kv.memory.rows:
        for side in layer:
            for _, row, count in kv.pieces(0, tokens):
                yield memoryview(side.narrow(0, row, count).cpu().reshape(-1).view(torch.uint8).numpy())


@dataclass(frozen=True, kw_only=True)
class KvMessage:
    """A hand-off that was received whole and matches. `data` are the bytes of all tensors."""

    data: memoryview
    tokens: int
    layout: KvLayout

    def copy_into(self, kv: SequenceKv, tokens: int) -> None:
        """Copies the first `tokens` tokens of every layer into a sequence's KV."""
        layout = self.layout
        flat = torch.frombuffer(self.data, dtype=layout.dtype)
        theirs = flat.view(layout.layers, 2, self.tokens, layout.kv_heads, layout.head_dim)
        kv.write(0, theirs[:, :, :tokens])


def decode(buffer: bytearray, *, digest: bytes, want: KvIdentity, layout: KvLayout, prompt: Sequence[int]) -> KvMessage:
    """Checks a received message against what is wanted. `digest` is the SHA-256 of all but the trailer, as received.

    Raises `KvRefusedError`. The result shares the buffer's memory.
    """
    view = memoryview(buffer)
    if len(view) < 8 + TRAILER_BYTES or bytes(view[-TRAILER_BYTES:]) != digest:
        raise KvRefusedError("digest", "the bytes were cut or altered on the way")
    length = struct.unpack_from("<Q", buffer)[0]
    if length > min(MAX_HEADER_BYTES, len(view) - 8 - TRAILER_BYTES):
        raise KvRefusedError("header", "the header is longer than the message")
    expected = encode_header(want, prompt=prompt)
    if bytes(view[: 8 + length]) != expected:
        raise _difference(bytes(view[8 : 8 + length]), expected[8:])
    data = view[8 + length : -TRAILER_BYTES]
    if len(data) != expected_bytes(layout, len(prompt)):
        raise KvRefusedError("header", f"{len(data)} bytes of tensors, not {expected_bytes(layout, len(prompt))}")
    return KvMessage(data=data, tokens=len(prompt), layout=layout)


def _difference(found: bytes, expected: bytes) -> KvRefusedError:
    """Names the first point in which two headers differ."""
    try:
        theirs, ours = json.loads(found)["__metadata__"], json.loads(expected)["__metadata__"]
    except (ValueError, KeyError, TypeError):
        return KvRefusedError("header", "the header is not that of a hand-off")
    reasons = {"protocol": "protocol", "model_digest": "model", "dtype": "dtype", "prompt_digest": "prompt"}
    for name, value in ours.items():
        if not isinstance(theirs, dict) or theirs.get(name) != value:
            other = theirs.get(name) if isinstance(theirs, dict) else None
            reason = "prompt" if name == "num_tokens" else reasons.get(name, "layout")
            return KvRefusedError(reason, f"{name} is {other!r} there and {value!r} here")
    return KvRefusedError("layout", "the tensors are laid out differently")
