"""Non-negative least squares by exact coordinate descent on the Gram matrix (HALS: Cichocki and Phan 2009).

A row at a time, so that its codes and gradient stay in a processor's first cache, a code that stays 0 costs
one comparison, and no row waits for the slowest of its block. Compiled by numba.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mmxai.kernels._jit import jit

SWEEPS, TOL = 200, 1e-4
_RIDGE = 1e-6  # of the mean diagonal: units alike have a start too
_FRESH = 16  # sweeps after which a gradient is computed anew, lest rounding errors add up
_SHARE = 4096  # rows that are worth a thread


def nonnegative_codes(
    x: torch.Tensor,
    directions: torch.Tensor,
    start: torch.Tensor | None = None,
    *,
    tol: float = TOL,
    sweeps: int = SWEEPS,
) -> torch.Tensor:
    """The h >= 0 `[N, K]` that minimise |x - h @ directions|^2 a row, for x `[N, D]`, directions `[K, D]`.

    See `descend`; `start` is left as it is. A direction of length 0 has codes 0.
    """
    return descend(directions @ directions.T, x @ directions.T, start, tol=tol, sweeps=sweeps)


def descend(
    gram: torch.Tensor,
    products: torch.Tensor,
    start: torch.Tensor | None = None,
    *,
    tol: float = TOL,
    sweeps: int = SWEEPS,
) -> torch.Tensor:
    """min_h>=0 of h gram h' / 2 - h products', a row h of `[N, K]` at a time, for `gram` `[K, K]`, `products`
    `[N, K]`, of one dtype: float32 or float64.

    Coordinate descent reaches the one minimum there is where `gram` is regular. A row ends where a sweep
    moves no code by more than `tol` of its largest, or after `sweeps`; every sweep lowers what is minimised.
    `start` `[N, K]` >= 0: the codes to begin with; default: those without the constraint, cut at 0, from
    which directions that are much alike need far fewer sweeps.
    """
    h = _unbound(gram, products) if start is None else start.clone(memory_format=torch.contiguous_format)
    scale = gram.diagonal()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)  # a unit of length 0 then stays at 0
    h[:, scale <= 0] = 0
    shared = [t.contiguous().numpy() for t in (gram, inverse, products)] + [h.numpy()]
    threads = max(1, min(torch.get_num_threads(), len(h) // _SHARE))
    cuts = np.linspace(0, len(h), threads + 1).astype(int).tolist()
    if threads == 1:
        _descend(*shared, 0, len(h), tol, sweeps)
        return h
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda a, b: _descend(*shared, a, b, tol, sweeps), cuts[:-1], cuts[1:]))
    return h


def _unbound(gram: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Least squares, cut at 0."""
    wide = gram.double()
    ridge = _RIDGE * wide.diagonal().mean().clamp(min=1e-300)
    solve = torch.linalg.inv(wide + ridge * torch.eye(len(gram), dtype=torch.float64))
    return (products @ solve.to(products.dtype)).clamp(min=0)


@jit
def _descend(
    gram: np.ndarray,
    inverse: np.ndarray,
    products: np.ndarray,
    h: np.ndarray,
    begin: int,
    end: int,
    tol: float,
    sweeps: int,
) -> None:
    units = len(gram)
    zero = gram[0, 0] * 0  # of the arrays' dtype, so that nothing is widened
    left = np.empty_like(gram[0])  # products - h @ gram
    for row in range(begin, end):
        for sweep in range(sweeps):
            if sweep % _FRESH == 0:
                left[:] = products[row]
                for k in range(units):
                    old = h[row, k]
                    if old != zero:
                        for j in range(units):
                            left[j] -= old * gram[k, j]
            moved = largest = zero
            for k in range(units):
                old = h[row, k]
                new = max(old + left[k] * inverse[k], zero)
                step = new - old
                if step != zero:
                    h[row, k] = new
                    moved = max(moved, abs(step))
                    for j in range(units):
                        left[j] -= step * gram[k, j]
                largest = max(largest, new)
            if moved <= tol * largest:
                break
