"""Which levels each value is between, and what its cell has of some columns, added up by that."""

from __future__ import annotations

import numpy as np

from mmxai.kernels._jit import jit


@jit
def add_bins(
    x: np.ndarray, levels: np.ndarray, unit: np.ndarray, column: np.ndarray, start: np.ndarray,
    area: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """x float32 `[U, T]`; levels float32 `[U, L]`, ascending. Pair i is of `unit[i]` (ascending) and
    `column[i]`: `out[start[i] + b]` grows by `area[column[i], t]` for every t of which b levels are below
    `x[unit[i], t]`. All int64."""
    cells = x.shape[1]
    bins = np.empty(cells, np.int64)
    done = -1
    for i in range(len(unit)):
        u = unit[i]
        if u != done:
            done = u
            # Halving for all cells at once, without branches.
            own, row, size = levels[u], x[u], levels.shape[1]
            bins[:] = 0
            while size > 1:
                half = size >> 1
                for t in range(cells):
                    bins[t] += half * (own[bins[t] + half - 1] < row[t])
                size -= half
            for t in range(cells):
                bins[t] += own[bins[t]] < row[t]
        for t in range(cells):
            out[start[i] + bins[t]] += area[column[i], t]
