"""Memory for large arrays, used again once nobody holds the array.

The system clears memory before it gives it out, which for a batch of crops costs as much as filling it.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike


class RecycledMemory:
    """Hands out arrays whose memory comes back by itself. Holds as much as was ever in use at a time.

    Whoever holds the array, a view of it, or a tensor that shares its memory keeps it: the memory comes back when the
    last of them is gone. Any thread may take one.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[mmap.mmap]] = {}
        """By size in bytes."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Return a C-contiguous array of that shape with any content, as `numpy.empty` gives."""
        byte_size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = self._free.setdefault(byte_size, deque())
        try:
            memory = free.pop()
        except IndexError:
            memory = _from_system(byte_size)
        # Views refer to the last array on the way to the memory. That is this one, because its memory is no array.
        array: np.ndarray = np.ndarray(shape, dtype, buffer=memory)
        weakref.finalize(array, free.append, memory).atexit = False
        return array


def _from_system(byte_size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, max(byte_size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
