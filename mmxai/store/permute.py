"""A keyed permutation of range(n) that needs no memory: a Feistel network with cycle walking.

Any position can be asked alone, in both directions, so an order over billions of samples or rows is
three integers. The round function is the finaliser of SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 4
_MASK64 = (1 << 64) - 1


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """The permutation of `range(n)` keyed by `seed` and any further integers (an epoch, a window)."""

    def __init__(self, n: int, *key: int):
        self.n = n
        self._half = np.uint64(max(1, -(-(max(n, 2) - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        state = np.uint64(0)
        for part in key:
            state = _mix(np.array([(int(state) + part * 0x9E3779B97F4A7C15 + 1) & _MASK64], np.uint64))[0]
        steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._keys = _mix(steps + state)

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
        x = self._once(x.astype(np.uint64), forward)
        # Values outside range(n) walk on along their cycle; fewer than 3 of 4 ever need another step.
        outside = np.flatnonzero(x >= self.n)
        while outside.size:
            x[outside] = self._once(x[outside], forward)
            outside = outside[x[outside] >= self.n]
        return x.astype(np.int64)

    def _once(self, x: np.ndarray, forward: bool) -> np.ndarray:
        left, right = x >> self._half, x & self._mask
        if forward:
            for key in self._keys:
                left, right = right, left ^ (_mix(right + key) & self._mask)
        else:
            for key in self._keys[::-1]:
                left, right = right ^ (_mix(left + key) & self._mask), left
        return (left << self._half) | right
