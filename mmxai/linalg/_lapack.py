"""Cholesky by scipy's LAPACK, called in a way that lets other threads run: scipy's own wrappers do not."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numba.extending import get_cython_function_address

_INT = ctypes.POINTER(ctypes.c_int)
_CHAR, _ARRAY = ctypes.c_char_p, ctypes.c_void_p
_SIGNATURES = {
    "potrf": ctypes.CFUNCTYPE(None, _CHAR, _INT, _ARRAY, _INT, _INT),
    "potrs": ctypes.CFUNCTYPE(None, _CHAR, _INT, _INT, _ARRAY, _INT, _ARRAY, _INT, _INT),
}
_LOWER = b"L"  # of a matrix in Fortran's order, so the upper triangle of one in C's


def potrf(matrix: np.ndarray) -> bool:
    """Factorise `[n, n]`, float32 or float64, in C's order, in place: only the upper triangle is read, and
    becomes the factor R of matrix = R' R. False where it is not positive definite."""
    _check(matrix)
    size, info = ctypes.c_int(len(matrix)), ctypes.c_int(0)
    _function("potrf", matrix.dtype.char)(_LOWER, size, matrix.ctypes.data, size, info)
    # OpenBLAS takes NaN for positive; it spreads to the diagonal.
    return info.value == 0 and bool(np.isfinite(matrix.diagonal()).all())


def potrs(factor: np.ndarray, right: np.ndarray) -> None:
    """Solve in place: each row of `right` `[T, n]` becomes the solution for it, by the factor of `potrf`."""
    _check(factor)
    _check(right, factor)
    size, rows, info = ctypes.c_int(len(factor)), ctypes.c_int(len(right)), ctypes.c_int(0)
    call = _function("potrs", factor.dtype.char)
    call(_LOWER, size, rows, factor.ctypes.data, size, right.ctypes.data, size, info)


@cache
def _function(name: str, char: str) -> Callable[..., None]:
    prefix = {"f": "s", "d": "d"}[char]
    return _SIGNATURES[name](get_cython_function_address("scipy.linalg.cython_lapack", prefix + name))


def _check(array: np.ndarray, factor: np.ndarray | None = None) -> None:
    """What C would read or write wrongly is our own mistake, not a user's."""
    size = len(array) if factor is None else len(factor)
    good = array.ndim == 2 and array.shape[1] == size and array.flags.carray and array.dtype.char in "fd"
    if not good or (factor is not None and array.dtype != factor.dtype):
        raise TypeError(f"lapack: got {array.dtype} {array.shape}, {array.flags}")
