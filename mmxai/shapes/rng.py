"""Random numbers as a pure function of (key, index, counter): SplitMix64 (Steele et al. 2014) in integers.

Nothing here depends on a library's generator or on floating point, so the world is the same on every
machine, in every process and in any order of asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_GAMMA2 = 0xD1B54A32D192ED03


def mix(x: int) -> int:
    """The finaliser of SplitMix64 on one 64-bit word."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key from any integers."""
    key = 0
    for part in parts:
        key = mix((key + part * _GAMMA + 1) & _MASK)
    return key


def mix_array(x: np.ndarray) -> np.ndarray:
    """`mix` on uint64 of any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draws:
    """Successive draws for many indices at once: int64 `[N]` each."""

    def __init__(self, key: int, indices: np.ndarray):
        self._state = mix_array(indices.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(key))

    def word(self) -> np.ndarray:
        """The next 64 random bits, uint64 `[N]`."""
        self._state = self._state + np.uint64(_GAMMA2)
        return mix_array(self._state)

    def below(self, n: int) -> np.ndarray:
        """Uniform on `range(n)`, n < 2^31 (bias below n / 2^32)."""
        return ((self.word() >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)

    def around(self, spread: int) -> np.ndarray:
        """Uniform on `-spread .. spread`."""
        return self.below(2 * spread + 1) - spread


class Choices:
    """The same numbers as `Draws`, for one index: choices among Python things."""

    def __init__(self, key: int, index: int):
        self._state = mix((index * _GAMMA + key) & _MASK)

    def word(self) -> int:
        self._state = (self._state + _GAMMA2) & _MASK
        return mix(self._state)

    def below(self, n: int) -> int:
        return ((self.word() >> 32) * n) >> 32

    def chance(self, times: int, of: int) -> bool:
        """True with probability times / of."""
        return self.below(of) < times

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        rest, out = list(options), []
        while rest:
            out.append(rest.pop(self.below(len(rest))))
        return out
