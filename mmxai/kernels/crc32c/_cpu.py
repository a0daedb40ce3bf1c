"""`crc32c` in C++: csrc/core/crc32c.h."""

from __future__ import annotations

import numpy as np

from mmxai.kernels._native import cpu_module


def supports() -> str | None:
    return None


def crc32c(data: np.ndarray, value: int) -> int:
    return cpu_module().crc32c(data, value)


def crc32c_chunks(data: np.ndarray, chunk_bytes: int, threads: int) -> np.ndarray:
    return cpu_module().crc32c_chunks(data, chunk_bytes, threads)
