"""Correlations between the columns of two matrices: whose rows stream by side by side, or that are held."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from mmxai.errors import ArgumentError, NonFiniteError

PAIR_BYTES = 32
"""What a pair of columns takes at most while its correlation is made: a product, copies on the way to r."""

_CONSTANT = 1e-12  # a variance below this share of the mean square is what rounding left of none


class CrossMoments:
    """Means, variances and products of x `[N, A]` and y `[N, B]`, row by row; x and y may be the same.

    Rows are taken less a fixed early mean (that of the first block), so that offsets cost no digits; products
    of a block run in float32 and are summed in float64.
    """

    def __init__(self, width_x: int, width_y: int):
        self.count = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums = [torch.zeros(w, dtype=torch.float64) for w in (width_x, width_y)]
        self._squares = [torch.zeros(w, dtype=torch.float64) for w in (width_x, width_y)]
        self._product = torch.zeros(width_x, width_y, dtype=torch.float64)

    def update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take in rows, float `[N, A]` and `[N, B]`. NonFiniteError where one is NaN or infinite."""
        expected = tuple(len(s) for s in self._sums)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or (x.shape[1], y.shape[1]) != expected:
            raise ArgumentError(
                f"correlation: got {tuple(x.shape)} and {tuple(y.shape)}, expected (N, {expected[0]}) and "
                f"(N, {expected[1]})"
            )
        if not len(x):
            return
        if self._shift is None:
            self._shift = x.float().mean(0), y.float().mean(0)
        a, b = x.float() - self._shift[0], y.float() - self._shift[1]
        for i, d in enumerate((a, b)):
            exact = d.double()
            self._sums[i] += exact.sum(0)
            self._squares[i] += exact.square_().sum(0)
        if not all(s.isfinite().all() for s in self._sums):
            raise NonFiniteError(
                f"correlation: got NaN or inf in a block of {len(x)} rows, expected finite rows; leave such "
                "rows out"
            )
        self._product += (a.T @ b).double()
        self.count += len(x)

    def correlation(self) -> torch.Tensor:
        """Pearson's r of every pair, float32 `[A, B]`; 0 where a column is constant."""
        n = max(1, self.count)
        (mx, my) = (s / n for s in self._sums)
        sx, sy = (
            torch.where((v := q / n - m.square()) > _CONSTANT * q / n, v.clamp(min=0).sqrt(), torch.inf)
            for q, m in zip(self._squares, (mx, my), strict=True)
        )
        r = (self._product / n - torch.outer(mx, my)) / sx[:, None] / sy
        return r.clamp(-1, 1).float()


def standardised(x: torch.Tensor) -> torch.Tensor:
    """x float32 `[N, D]`, changed in place: columns of mean 0 and length 1, so that x.T @ y are correlations.
    Constant columns are 0. NonFiniteError where a value is NaN or infinite."""
    mean = x.mean(0, dtype=torch.float64)
    _finite(mean.numpy(), len(x))
    x -= mean.float()
    length = torch.linalg.vector_norm(x, dim=0, dtype=torch.float64)
    varies = length.square() > _CONSTANT * (length.square() + len(x) * mean.square())
    x *= torch.where(varies, 1 / length, 0).float()
    return x


def sparse_correlation(x: sparse.csc_array, y: sparse.csr_array) -> torch.Tensor:
    """Pearson's r of every pair of columns, float32 `[A, B]`, of float64 rows that are mostly 0, side by
    side. 0 where a column is constant. Costs a product a pair of entries of a row, not one a pair of columns.
    """
    n = max(1, x.shape[0])
    (mx, sx), (my, sy) = _spread(x, n), _spread(y, n)
    products = x.T @ y  # in float64: sums of as many terms of one sign as there are rows
    products.data /= n
    r = torch.from_numpy(products.astype(np.float32).toarray())
    del products
    left, right = (torch.from_numpy(1 / s).float() for s in (sx, sy))
    r.mul_(left[:, None]).mul_(right)
    return r.addr_(torch.from_numpy(mx / sx).float(), torch.from_numpy(my / sy).float(), alpha=-1).clamp_(
        -1, 1
    )


def _spread(x: sparse.sparray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; infinity of a constant one."""
    mean, square = x.sum(0) / n, x.multiply(x).sum(0) / n
    _finite(mean, n)
    var = square - mean**2
    return mean, np.where(var > _CONSTANT * square, np.sqrt(np.maximum(var, 0)), np.inf)


def _finite(sums: np.ndarray, rows: int) -> None:
    if not np.isfinite(sums).all():
        raise NonFiniteError(
            f"correlation: got NaN or inf in {rows} rows, expected finite rows; leave such rows out"
        )
