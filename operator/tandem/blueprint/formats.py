"""Number formats of weights: the exact bytes of a matrix in each, with scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`bits` per value, and `block_bytes` (+ `block_bits`) for each block of `rows` × `columns` values (0: all).

    `matrix_bytes` come once per matrix, `input_bytes` once per column.
    """

    name: str
    bits: int
    rows: int = 1
    columns: int = 0
    block_bytes: int = 0
    block_bits: int = 0
    matrix_bytes: int = 0
    input_bytes: int = 0

    def bytes_of(self, out: int, inp: int) -> int:
        """Bytes of one matrix of `out` × `inp` values."""
        values = -(-out * inp * self.bits // 8)
        if not (self.block_bytes or self.block_bits):
            return values + self.matrix_bytes
        blocks = -(-out // (self.rows or out)) * -(-inp // (self.columns or inp))
        scales = blocks * self.block_bytes + -(-blocks * self.block_bits // 8)
        return values + scales + self.matrix_bytes + inp * self.input_bytes


# Plain formats: the names of config.json and of safetensors.
PLAIN_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}


def fp8_block(rows: int = 128, columns: int = 128) -> Format:
    """FP8 with a float32 scale per block (DeepSeek)."""
    return Format(name="fp8", bits=8, rows=rows, columns=columns, block_bytes=4)


def integers(bits: int, *, group: int, zero_points: bool, columns_reordered: bool = False, name: str) -> Format:
    """Integers with a 16-bit scale (and zero point) per group of inputs, as AWQ and GPTQ store them."""
    return Format(
        name=name,
        bits=bits,
        columns=max(group, 0),
        block_bytes=2,
        block_bits=bits if zero_points else 0,
        input_bytes=4 if columns_reordered else 0,
    )


FP8_TENSOR = Format(name="fp8", bits=8, matrix_bytes=4)
FP8_CHANNEL = Format(name="fp8", bits=8, block_bytes=4)
INT8_CHANNEL = Format(name="int8", bits=8, block_bytes=4)
MXFP4 = Format(name="mxfp4", bits=4, columns=32, block_bytes=1)
NVFP4 = Format(name="nvfp4", bits=4, columns=16, block_bytes=1, matrix_bytes=4)
NF4 = Format(name="nf4", bits=4, columns=64, block_bytes=1, matrix_bytes=4)
AWQ = integers(4, group=128, zero_points=True, name="awq")
GPTQ = integers(4, group=128, zero_points=True, columns_reordered=True, name="gptq")


def _gguf(name: str, values: int, size: int) -> Format:
    return Format(name=name, bits=0, columns=values, block_bytes=size)


# Block sizes of llama.cpp (ggml-common.h): values and bytes of one block.
GGUF: Mapping[str, Format] = {
    name: _gguf(name, values, size)
    for name, values, size in (
        ("q4_0", 32, 18),
        ("q4_1", 32, 20),
        ("q5_0", 32, 22),
        ("q5_1", 32, 24),
        ("q8_0", 32, 34),
        ("q2_k", 256, 84),
        ("q3_k", 256, 110),
        ("q4_k", 256, 144),
        ("q5_k", 256, 176),
        ("q6_k", 256, 210),
        ("f16", 1, 2),
        ("f32", 1, 4),
    )
}


def plain(name: str) -> Format:
    """A format without scales; `name` is one of `PLAIN_BYTES`."""
    return Format(name=name, bits=8 * PLAIN_BYTES[name])


def known() -> Mapping[str, Format]:
    """What weights may be sized in, by the name that users write."""
    return {
        **{name: plain(name) for name in ("float32", "bfloat16")},
        "fp8": fp8_block(),
        "int8": INT8_CHANNEL,
        "mxfp4": MXFP4,
        "nvfp4": NVFP4,
        "awq": AWQ,
        "gptq": GPTQ,
        **{f"gguf-{name}": form for name, form in GGUF.items()},
    }
