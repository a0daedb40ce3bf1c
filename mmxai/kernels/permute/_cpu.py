"""`feistel` in C++: csrc/core/permute.h."""

from __future__ import annotations

import numpy as np

from mmxai.kernels import _native


def supports() -> str | None:
    return None


def feistel(
    values: np.ndarray, n: int, half: int, keys: np.ndarray, forward: bool, threads: int
) -> np.ndarray:
    return _native.cpu().loaded().feistel(values, n, half, keys, forward, threads)
