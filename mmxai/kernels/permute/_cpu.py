"""`feistel` in C++: csrc/core/permute.h."""

from __future__ import annotations

import numpy as np

from mmxai.kernels._native import cpu_module


def supports() -> str | None:
    return None


def feistel(
    values: np.ndarray, n: int, half: int, keys: np.ndarray, forward: bool, threads: int
) -> np.ndarray:
    return cpu_module().feistel(values, n, half, keys, forward, threads)
