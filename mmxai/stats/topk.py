"""Exact running top-k per column, ties to the lower row."""

from __future__ import annotations

import torch


def select(
    columns: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, width: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of every column among flat candidates: `(values [width, k], rows [width, k])`.

    `columns` int64 `[M]`, `values` float32 `[M]` without NaN, `rows` int64 `[M]`; every column has at
    least k candidates, and equal values of a column come in the order wanted (lower rows first).
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0: negative zero ties with zero
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)  # integers that sort as the floats do
    order = torch.argsort((columns << 32) | (0x7FFFFFFF - ordered), stable=True)
    counts = torch.bincount(columns, minlength=width)
    starts = torch.cumsum(counts, 0) - counts
    best = order[starts[:, None] + torch.arange(k, device=columns.device)]
    return values[best], rows[best]


class TopK:
    """Top-k of the columns of a stream of blocks.

    A block costs one comparison of its column maxima with the present k-th values; only columns that
    can change are looked at, and their candidates wait in a list until sorting them is worth while.
    After n rows a block of b rows has about k*b/n candidates a column, so the steady state is cheap.
    """

    def __init__(self, width: int, k: int, device: torch.device):
        self.width, self.k = width, k
        self.values = torch.full((width, k), -torch.inf, device=device)
        self.rows = torch.full((width, k), -1, dtype=torch.int64, device=device)
        self._columns = torch.arange(width, device=device)
        self._pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._waiting = 0

    def offer(self, x: torch.Tensor, row0: int, maxima: torch.Tensor) -> None:
        """Take in `x` (float32 `[N, width]`, -inf where nothing counts); `maxima` are its column maxima."""
        threshold = self.values[:, -1]
        hot = torch.nonzero(maxima > threshold).squeeze(1)
        if hot.numel() == 0:
            return
        if 2 * hot.numel() < self.width:
            x, threshold = x.index_select(1, hot), threshold[hot]
        else:
            hot = self._columns
        row, column = torch.nonzero(x > threshold, as_tuple=True)
        self._pending.append((hot[column], x[row, column], row + row0))
        self._waiting += row.numel()
        if self._waiting > self.width * self.k:
            self.flush()

    def flush(self) -> None:
        """Fold the waiting candidates into `values` and `rows`."""
        if not self._pending:
            return
        held = (self._columns.repeat_interleave(self.k), self.values.flatten(), self.rows.flatten())
        columns, values, rows = (torch.cat(c) for c in zip(held, *self._pending, strict=True))
        self.values, self.rows = select(columns, values, rows, self.width, self.k)
        self._pending, self._waiting = [], 0
