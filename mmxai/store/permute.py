"""A keyed permutation of range(n) that needs no memory: a Feistel network with cycle walking.

Any position can be asked alone, in both directions, so an order over billions of samples or rows is
three integers. The walk itself is the op `mmxai.kernels.permute`.
"""

from __future__ import annotations

import numpy as np

from mmxai.kernels.permute import feistel
from mmxai.kernels.permute.reference import mix

_ROUNDS = 4
_MASK64 = (1 << 64) - 1


class Permutation:
    """The permutation of `range(n)` keyed by `seed` and any further integers (an epoch, a window)."""

    def __init__(self, n: int, *key: int):
        self.n = n
        self._half = max(1, -(-(max(n, 2) - 1).bit_length() // 2))
        state = np.uint64(0)
        for part in key:
            state = mix(np.array([(int(state) + part * 0x9E3779B97F4A7C15 + 1) & _MASK64], np.uint64))[0]
        steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._keys = mix(steps + state)

    def __call__(self, positions: np.ndarray | range | list[int]) -> np.ndarray:
        """The items at `positions` (int64 `[N]`)."""
        return self._walk(positions, forward=True)

    def inverse(self, items: np.ndarray | range | list[int]) -> np.ndarray:
        """The positions at which `items` stand (int64 `[N]`)."""
        return self._walk(items, forward=False)

    def _walk(self, values: np.ndarray | range | list[int], forward: bool) -> np.ndarray:
        x = np.asarray(values, np.int64)
        if x.size and (x.min() < 0 or x.max() >= self.n):
            raise IndexError(f"permutation of {self.n}: got values in [{x.min()}, {x.max()}]")
        flat = feistel(x.reshape(-1).astype(np.uint64), self.n, self._half, self._keys, forward)
        return flat.reshape(x.shape)
