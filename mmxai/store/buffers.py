"""Output tensors that are recycled once nobody holds them.

Fresh pages cost as much as the gather that fills them. A buffer is a NumPy array; the tensors handed
out lie over it, and every view of them keeps their storage, which keeps the array: so its reference
count tells exactly whether anybody still looks at it.
"""

from __future__ import annotations

import sys
import threading
from math import prod

import numpy as np
import torch

_ALIGN = 64


def _holders(buffers: list[np.ndarray], index: int) -> int:
    buffer = buffers[index]
    return sys.getrefcount(buffer)


_UNHELD = _holders([np.empty(1, np.uint8)], 0)  # the count differs between versions of Python


class BufferPool:
    """CPU tensors by size; up to `limit` bytes in `most` buffers are kept for reuse, others are ordinary."""

    def __init__(self, limit: int = 1 << 30, most: int = 256):
        self._limit, self._most = limit, most
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised contiguous CPU tensor, aligned to 64 bytes."""
        need = prod(shape) * dtype.itemsize
        if need == 0:
            return torch.empty(shape, dtype=dtype)
        buffer = self._take(need)
        offset = -buffer.ctypes.data % _ALIGN
        return torch.from_numpy(buffer[offset : offset + need]).view(dtype).view(shape)

    def _take(self, need: int) -> np.ndarray:
        with self._lock:
            for i in range(len(self._buffers)):
                size = self._buffers[i].nbytes - _ALIGN
                if need <= size <= 2 * need and _holders(self._buffers, i) == _UNHELD:
                    return self._buffers[i]
            buffer = np.empty(need + _ALIGN, np.uint8)
            if need <= self._limit:
                self._make_room(need)
                if self._fits(need):
                    self._buffers.append(buffer)
            return buffer

    def _fits(self, need: int) -> bool:
        return len(self._buffers) < self._most and sum(b.nbytes for b in self._buffers) + need <= self._limit

    def _make_room(self, need: int) -> None:
        """Let go of the oldest buffers that nobody holds."""
        i = 0
        while i < len(self._buffers) and not self._fits(need):
            if _holders(self._buffers, i) == _UNHELD:
                del self._buffers[i]
            else:
                i += 1
