"""`crc32c` in C++: csrc/core/crc32c.h."""

from __future__ import annotations

import numpy as np

from mmxai.kernels import _native


def supports() -> str | None:
    return None


def crc32c(data: np.ndarray, value: int) -> int:
    return _native.cpu().loaded().crc32c(data, value)


def crc32c_chunks(data: np.ndarray, chunk_bytes: int, threads: int) -> np.ndarray:
    return _native.cpu().loaded().crc32c_chunks(data, chunk_bytes, threads)
