"""Common accelerators: the memory that their drivers report, and what their makers say they do at most, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.api.problems import refuse

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a GPU does at the very most: bytes of its memory read per second, operations per second by number format.

    `bits16` (bfloat16 or float16), `bits8` and `bits4`: dense, on tensor cores, of the fastest board of that name; a
    format that the GPU does not compute in has the speed of the next larger one.
    """

    bandwidth: float
    bits16: float
    bits8: float
    bits4: float


@dataclass(frozen=True, slots=True)
class _Row:
    """MiB of memory; GB per second; TFLOPS in 16, 8 and 4 bits, 0 for none."""

    memory: int
    bandwidth: int
    bits16: float
    bits8: float = 0
    bits4: float = 0


# Memory as nvidia-smi and rocm-smi show it, and as the node label nvidia.com/gpu.memory says. Speeds are those of the
# makers' data sheets, without sparsity, of the SXM board where there are several: NVIDIA T4, V100, A10, L4, L40S, A100,
# H100, GH200, H200 and HGX B200 data sheets, Ada architecture white paper (RTX 4090), AMD Instinct MI300X data sheet.
_TABLE: Mapping[str, _Row] = {
    "T4-16GB": _Row(15_360, 320, 65, 130),
    "V100-16GB": _Row(16_384, 900, 125),
    "V100-32GB": _Row(32_768, 900, 125),
    "A10-24GB": _Row(23_028, 600, 125, 250),
    "L4-24GB": _Row(23_034, 300, 121, 242.5),
    "RTX4090-24GB": _Row(24_564, 1008, 330.3, 660.6),
    "A100-40GB": _Row(40_960, 1555, 312, 624),
    "L40S-48GB": _Row(46_068, 864, 362, 733),
    "A100-80GB": _Row(81_920, 2039, 312, 624),
    "H100-80GB": _Row(81_559, 3350, 989.4, 1978.9),
    "H100-94GB": _Row(95_830, 3938, 989.4, 1978.9),
    "GH200-96GB": _Row(97_871, 4000, 989.4, 1978.9),
    "H200-141GB": _Row(143_771, 4800, 989.4, 1978.9),
    "B200-180GB": _Row(183_359, 8000, 2250, 4500, 9000),
    "MI300X-192GB": _Row(196_592, 5300, 1307.4, 2614.9),
}
GPUS: Mapping[str, int] = {name: row.memory * _MIB for name, row in _TABLE.items()}


def _speed(row: _Row) -> Speed:
    bits8 = row.bits8 or row.bits16
    return Speed(
        bandwidth=row.bandwidth * 1e9, bits16=row.bits16 * 1e12, bits8=bits8 * 1e12, bits4=(row.bits4 or bits8) * 1e12
    )


SPEEDS: Mapping[str, Speed] = {name: _speed(row) for name, row in _TABLE.items()}


def gpu_name(name: str) -> str:
    """The one GPU of the table that `name` (or the part of it before the dash) means; raises `Refused`."""
    exact = {known.upper(): known for known in _TABLE}
    if name.upper() in exact:
        return exact[name.upper()]
    begins = [known for known in _TABLE if known.split("-")[0].upper() == name.upper()]
    if len(begins) == 1:
        return begins[0]
    reason = "more than one GPU has this name" if begins else "this GPU is not known"
    raise refuse("--gpu", name[:80], reason, f"Use one of {', '.join(begins or _TABLE)}.")


def gpu_memory(name: str) -> int:
    """Bytes of a GPU by its name; raises `Refused`."""
    return GPUS[gpu_name(name)]
