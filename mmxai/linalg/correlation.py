"""Correlations between the columns of two matrices whose rows stream by side by side."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError, NonFiniteError


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
        # A variance below what rounding leaves of the squares is none.
        sx, sy = (
            torch.where((v := q / n - m.square()) > 1e-12 * q / n, v.clamp(min=0).sqrt(), torch.inf)
            for q, m in zip(self._squares, (mx, my), strict=True)
        )
        r = (self._product / n - torch.outer(mx, my)) / sx[:, None] / sy
        return r.clamp(-1, 1).float()
