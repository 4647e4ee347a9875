"""Which device and number type a model runs with, and how many threads and how much memory this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_PARAMETERS_PER_THREAD = 60_000_000  # measured on 2 busy CPUs: 58 M run a third faster on one thread than on two
_TOKENS_PER_THREAD = 48  # of a step: with fewer, reading the weights takes longer than multiplying


def choose_device() -> torch.device:
    """CUDA before MPS before CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`name` is auto, float32, bfloat16 or float16.

    auto is bfloat16 on GPUs that compute with it, float16 on older ones, and float32 elsewhere.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def to_device(numbers: NDArray[np.int64 | np.float64], device: torch.device) -> Tensor:
    """The same numbers on a device. On a GPU they are on their way when this returns: nothing waits for it."""
    host = torch.from_numpy(numbers)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: its affinity, limited by OMP_THREAD_LIMIT and its cgroup (v2 or v1), at least 1."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdigit() and int(limit) > 0:
        available = min(available, int(limit))
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    return available if quota is None else max(1, min(available, math.ceil(quota)))


def memory_available(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still take: what the machine has free, limited by the cgroup (v2 or v1)."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    meminfo = _read(Path("/proc/meminfo"))
    for line in (meminfo or "").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, usage = _read(cgroup / limit_file), _read(cgroup / usage_file)
        if limit and usage and limit.isdigit():
            free = min(free, max(0, int(limit) - int(usage)))
    return free


def threads_for(parameters: int, cpus: int, tokens: int = 1) -> int:
    """Threads for a step of a model: splitting little work costs more than it gives."""
    many = parameters * max(1, tokens // _TOKENS_PER_THREAD) // _PARAMETERS_PER_THREAD
    return max(1, min(cpus, many))


def leaves_idle(device: torch.device, parameters: int, cpus: int) -> bool:
    """Whether steps of running sequences run on one thread by our own choice, and there are more CPUs."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    return device.type == "cpu" and cpus > 1 and not chosen and threads_for(parameters, cpus) == 1


def set_threads(count: int) -> None:
    """Limits torch to `count` threads, unless OMP_NUM_THREADS says something else."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(chosen) if chosen.isdigit() and int(chosen) > 0 else count)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _quota_v2(path: Path) -> float | None:
    text = _read(path)
    if not text:
        return None
    quota, _, period = text.partition(" ")
    return None if quota == "max" else int(quota) / int(period or 100_000)


def _quota_v1(directory: Path) -> float | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)
