"""numba, for the backends that serve where no C++ compiler was present at install.

All integers in the kernels are int64 (bits of floats included) unless said otherwise: numba turns uint64
mixed with int64 into float64. No `parallel=True`: numba's threads neither survive a fork nor bear two
callers. numba's cache does not see that a function called from another file changed: after editing this one,
delete `mmxai/kernels/*/__pycache__`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

# numba keeps compiled code in __pycache__ beside the source, and raises where it cannot write there.
_CACHE = os.access(Path(__file__).parent, os.W_OK)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at first call, kept on disk where possible, run without the GIL."""
    return numba.njit(nogil=True, cache=_CACHE)(function)


@jit
def widen(x: Any, dtype: int) -> Any:
    """Bits of a float32 from those of dtype 0 float32, 1 bfloat16, 2 float16 (`FLOATS` of `_args`)."""
    u = np.int64(x)
    if dtype == 0:
        return u
    if dtype == 1:
        return u << 16
    sign = (u & 0x8000) << 16
    magnitude = u & 0x7FFF
    if magnitude > 0x7C00:
        return sign | 0x7FC00000 | (magnitude << 13)
    if magnitude == 0x7C00:
        return sign | 0x7F800000
    if magnitude >= 0x400:
        return sign | ((magnitude << 13) + 0x38000000)
    if magnitude == 0:
        return sign
    exponent = 113
    while magnitude < 0x400:
        magnitude <<= 1
        exponent -= 1
    return sign | (exponent << 23) | ((magnitude & 0x3FF) << 13)


@jit
def narrow(u: Any, dtype: int) -> Any:
    """The inverse of `widen`: to nearest, ties to even, NaNs as `_convert` specifies."""
    if dtype == 0:
        return u
    sign = (u >> 16) & 0x8000
    magnitude = u & 0x7FFFFFFF
    if dtype == 1:
        if magnitude > 0x7F800000:
            return (u >> 16) | 0x40
        return (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    if magnitude > 0x7F800000:
        return sign | 0x7E00 | ((u >> 13) & 0x3FF)
    if magnitude >= 0x47800000:
        return sign | 0x7C00
    if magnitude >= 0x38800000:
        return sign | ((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13)
    if magnitude < 0x33000000:
        return sign
    shift = 126 - (magnitude >> 23)  # a denormal: 14 to 24 bits fall off
    mantissa = (magnitude & 0x7FFFFF) | 0x800000
    return sign | ((mantissa + (1 << (shift - 1)) - 1 + ((mantissa >> shift) & 1)) >> shift)


@jit
def overflows(u: Any, dtype: int) -> int:
    """1 where the float32 of bits `u` is finite and becomes infinite in `dtype`."""
    magnitude = u & 0x7FFFFFFF
    if magnitude >= 0x7F800000:
        return 0
    if dtype == 1:
        return 1 if magnitude >= 0x7F7F8000 else 0
    if dtype == 2:
        return 1 if magnitude >= 0x477FF000 else 0
    return 0
