"""`feistel` under numba, one value after the other. All integers uint64. One thread."""

from __future__ import annotations

import numpy as np

from mmxai.kernels._jit import jit


def supports() -> str | None:
    return None


@jit
def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit
def _walk(
    values: np.ndarray, n: np.uint64, half: np.uint64, keys: np.ndarray, forward: bool, out: np.ndarray
) -> None:
    mask = (np.uint64(1) << half) - np.uint64(1)
    for i in range(len(values)):
        x = values[i]
        while True:
            left, right = x >> half, x & mask
            if forward:
                for k in range(4):
                    left, right = right, left ^ (_mix(right + keys[k]) & mask)
            else:
                for k in range(4):
                    left, right = right ^ (_mix(left + keys[3 - k]) & mask), left
            x = (left << half) | right
            if x < n:
                break
        out[i] = x


def feistel(
    values: np.ndarray, n: int, half: int, keys: np.ndarray, forward: bool, threads: int
) -> np.ndarray:
    out = np.empty(len(values), np.int64)
    _walk(values, np.uint64(n), np.uint64(half), keys, forward, out)
    return out
