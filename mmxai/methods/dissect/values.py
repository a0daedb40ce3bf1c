"""Values of units in rows, dense or by the entries that are not 0: the same questions asked of both."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes
from mmxai.kernels.mask_counts import mask_counts

Values = torch.Tensor | Codes
"""`[N, U]`: float32 or bfloat16, or codes."""


def rows_of(x: Values, own: slice) -> Values:
    """Some rows."""
    if isinstance(x, torch.Tensor):
        return x[own]
    offsets = x.offsets[own.start : own.stop + 1]
    entries = slice(int(offsets[0]), int(offsets[-1]))
    return Codes(x.values[entries], x.indices[entries], offsets - offsets[0], x.width)


def dense(x: Values) -> torch.Tensor:
    """All values."""
    if isinstance(x, torch.Tensor):
        return x
    out = torch.zeros(x.rows, x.width)
    out[row_of(x), x.indices.long()] = x.values
    return out


def fired(x: Values, threshold: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """How many of some rows (bool `[N]`) are above the threshold: int64 `[U]`."""
    # A label of one pixel in each of those rows: a comparison and a sum in torch take several times as long.
    there = torch.from_numpy(rows)
    one = torch.ones(int(there.sum()), dtype=torch.int32)
    cells = CellLabels(torch.nn.functional.pad(there.cumsum(0), (1, 0)), torch.zeros_like(one), one)
    counts = torch.zeros(len(threshold), 1, dtype=torch.int64)
    mask_counts(x, threshold, cells, counts)
    return counts[:, 0].numpy()


def sums(x: Values, area: torch.Tensor, areas: int) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Of values and their squares over pixels `area` float32 `[T, P]`, of squares for the columns from
    `areas` on: the units concerned (None: all), float32 `[u, P]` and `[u, P - areas]`."""
    if isinstance(x, torch.Tensor):
        value = x.float()
        return None, (value.T @ area).numpy(), (value.square().T @ area[:, areas:]).numpy()
    units, which = x.indices.unique(return_inverse=True)
    own = area[row_of(x)]
    along = torch.zeros(len(units), area.shape[1]).index_add_(0, which, own * x.values[:, None])
    square = own[:, areas:] * x.values.square()[:, None]
    squares = torch.zeros(len(units), square.shape[1]).index_add_(0, which, square)
    return units.numpy(), along.numpy(), squares.numpy()


def highest(x: Values, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Each unit's largest value in some rows (bool `[N]`, not none), float32 `[U]`, and its row int64 `[U]`.
    Of codes, of the entries there are."""
    if isinstance(x, torch.Tensor):
        some = torch.from_numpy(np.flatnonzero(rows))
        best, at = (x if len(some) == len(x) else x[some]).max(0)
        return best.float(), some[at]
    best, at = torch.full((x.width,), -torch.inf), torch.zeros(x.width, dtype=torch.int64)
    row = row_of(x)
    here = torch.from_numpy(rows)[row]
    row, index, values = row[here], x.indices.long()[here], x.values[here]
    # One sort by unit and value; each unit's last entry is its largest, the first row of equal ones.
    order = np.lexsort((-row.numpy(), values.numpy(), index.numpy()))
    last = torch.from_numpy(order[np.flatnonzero(np.diff(index.numpy()[order], append=-1))])
    best[index[last]], at[index[last]] = values[last], row[last]
    return best, at


def row_of(x: Codes) -> torch.Tensor:
    """The row of every entry, int64 `[E]`."""
    return torch.arange(x.rows).repeat_interleave(x.offsets.diff())
