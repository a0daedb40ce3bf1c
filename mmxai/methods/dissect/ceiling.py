"""The best IoU that any mask of whole cells attains for a concept.

A mask of cells has a / (n + L - a), with a pixels of the concept among its n, of L in all. The best one takes
every cell whose share of the concept is above some level (with IoU = v at the best, a cell helps where a - v
(n - a) > 0: Dinkelbach 1967), so that sums by share are all that is needed. Shares are kept to 1 / BINS; the
level lies within that of the best, where the IoU is flat, and what is told is attained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mmxai.kernels.cells import CellLabels

BINS = 1024


class Ceiling:
    """Of C concepts. Cells of a grid; the last column of the labels is all pixels."""

    def __init__(self, concepts: int):
        self._of = torch.zeros(concepts, BINS + 1, dtype=torch.int64)
        self._all = torch.zeros(concepts, BINS + 1, dtype=torch.int64)

    def add(self, cells: CellLabels) -> None:
        concepts = len(self._of)
        cell, column = cells.cells(), cells.columns.long()
        size = torch.zeros(cells.rows, dtype=torch.int64)
        # Every cell's largest count is that of the area it has: of all its pixels.
        size.scatter_reduce_(0, cell, cells.counts.long(), "amax")
        own = column < concepts
        count, whole = cells.counts[own].long(), size[cell[own]]
        place = column[own] * (BINS + 1) + count * BINS // whole
        self._of.view(-1).index_add_(0, place, count)
        self._all.view(-1).index_add_(0, place, whole)

    def values(self) -> np.ndarray:
        """float64 `[C]`: the ceilings, 0 of a concept that was nowhere."""
        # From the cells of the highest share down.
        inside = self._of.flip(1).cumsum(1).double()
        taken = self._all.flip(1).cumsum(1).double()
        total = inside[:, -1:]
        found = inside / (taken + total - inside).clamp(min=1)
        return found.amax(1).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        return {"of": self._of.numpy(), "all": self._all.numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._of, self._all = (torch.from_numpy(arrays[name].copy()) for name in ("of", "all"))
