"""The specification of `feistel`, in NumPy."""

from __future__ import annotations

import numpy as np


def supports() -> str | None:
    return None


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def feistel(
    values: np.ndarray, n: int, half: int, keys: np.ndarray, forward: bool, threads: int
) -> np.ndarray:
    x = _once(values, half, keys, forward)
    # Values outside range(n) walk on along their cycle; fewer than 3 of 4 ever need another step.
    outside = np.flatnonzero(x >= n)
    while outside.size:
        x[outside] = _once(x[outside], half, keys, forward)
        outside = outside[x[outside] >= n]
    return x.astype(np.int64)


def _once(x: np.ndarray, half: int, keys: np.ndarray, forward: bool) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = x >> np.uint64(half), x & mask
    if forward:
        for key in keys:
            left, right = right, left ^ (mix(right + key) & mask)
    else:
        for key in keys[::-1]:
            left, right = right ^ (mix(left + key) & mask), left
    return (left << np.uint64(half)) | right
