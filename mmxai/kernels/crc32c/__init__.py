"""CRC-32C (Castagnoli), the checksum of the store's chunks: RFC 3720, appendix B.4."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("crc32c")


def crc32c(data: Any, value: int = 0, *, backend: str = "auto") -> int:
    """The CRC-32C of `data`, any C-contiguous buffer (NumPy array, memoryview, bytes).

    `value` is the checksum of the bytes before: `crc32c(b, crc32c(a)) == crc32c(a + b)`.
    """
    if not 0 <= value < 2**32:
        raise ArgumentError(f"crc32c: got value {value}, expected 0 <= value < 2**32")
    return OP.pick(backend, "cpu").crc32c(_bytes(data), value)


def crc32c_chunks(
    data: Any, chunk_bytes: int, *, threads: int | None = None, backend: str = "auto"
) -> np.ndarray:
    """The CRC-32C of each consecutive `chunk_bytes` of `data` (the last may be shorter): uint32 `[chunks]`.

    `threads`: None takes as many as torch does.
    """
    if chunk_bytes < 1:
        raise ArgumentError(f"crc32c_chunks: got chunk_bytes {chunk_bytes}, expected at least 1")
    return OP.pick(backend, "cpu").crc32c_chunks(_bytes(data), chunk_bytes, thread_count(threads))


def _bytes(data: Any) -> np.ndarray:
    """`data` as uint8 `[nbytes]`, sharing memory."""
    if isinstance(data, np.ndarray):  # first, for buffers cannot express every NumPy dtype (bfloat16)
        if not data.flags.c_contiguous:
            raise ArgumentError("crc32c: got a non-contiguous array, expected C-contiguous; copy it first")
        return data.reshape(-1).view(np.uint8)
    try:
        view = memoryview(data)
    except TypeError:
        raise ArgumentError(f"crc32c: got {type(data).__name__}, expected bytes or an array") from None
    if not view.c_contiguous:
        raise ArgumentError("crc32c: got a non-contiguous buffer, expected C-contiguous; copy it first")
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
