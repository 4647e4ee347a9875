"""Common accelerators and the memory that their drivers report, as data."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.api.problems import refuse

_MIB = 2**20
# MiB as nvidia-smi and rocm-smi show them, and as the node label nvidia.com/gpu.memory says.
_MEMORY_MIB: Mapping[str, int] = {
    "T4-16GB": 15_360,
    "V100-16GB": 16_384,
    "V100-32GB": 32_768,
    "A10-24GB": 23_028,
    "L4-24GB": 23_034,
    "RTX4090-24GB": 24_564,
    "A100-40GB": 40_960,
    "L40S-48GB": 46_068,
    "A100-80GB": 81_920,
    "H100-80GB": 81_559,
    "H100-94GB": 95_830,
    "GH200-96GB": 97_871,
    "H200-141GB": 143_771,
    "B200-180GB": 183_359,
    "MI300X-192GB": 196_592,
}
GPUS: Mapping[str, int] = {name: mib * _MIB for name, mib in _MEMORY_MIB.items()}


def gpu_memory(name: str) -> int:
    """Bytes of a GPU by its name (or the part of it before the dash, where only one has that); raises `Refused`."""
    exact = {known.upper(): size for known, size in GPUS.items()}
    if name.upper() in exact:
        return exact[name.upper()]
    begins = [size for known, size in exact.items() if known.split("-")[0] == name.upper()]
    if len(begins) == 1:
        return begins[0]
    reason = "more than one GPU has this name" if begins else "this GPU is not known"
    raise refuse("--gpu", name, reason, f"Use one of {', '.join(GPUS)}, or --gpu-memory.")
