"""Memory that a file is mapped to stays resident while any part of the mapping is used: here parts are let go."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from pathlib import Path

from torch import Tensor

_MAPS = Path("/proc/self/maps")


class MappedFiles:
    """The files that are mapped into this process now; none where the system does not tell."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        lines = _MAPS.read_text().splitlines() if _MAPS.exists() else []
        for line in lines:
            addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
            first, _, last = addresses.partition("-")
            if inode != "0":
                self._ranges.append((int(first, 16), int(last, 16)))

    def let_go(self, tensor: Tensor) -> None:
        """Frees the memory of a tensor that nobody reads any more, if it is that of a file: the file still has it."""
        self._let_go(tensor.data_ptr(), tensor.numel() * tensor.element_size())

    def let_go_after(self, tensor: Tensor) -> None:
        """Does so when the tensor itself is gone. Nothing may have been written to it."""
        weakref.finalize(tensor, self._let_go, tensor.data_ptr(), tensor.numel() * tensor.element_size())

    def _let_go(self, start: int, size: int) -> None:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # pages at the edges may belong to others, too
        length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and any(begin <= start and start + size <= end for begin, end in self._ranges):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def return_freed() -> None:
    """Gives memory that was freed back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
