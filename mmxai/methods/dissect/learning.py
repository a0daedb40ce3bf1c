"""Thresholds that are learned: of each unit the value above which its mask has the highest F1 with a concept,
on the pictures that labels are chosen on.

A mask of everything has a high F1 with a frequent concept, whatever the unit: which concept it is, is told by
how far above that one the unit's best is. Two passes. The first counts every unit with every concept at a
few of its levels, a factor apart in the cells above, and keeps some concepts; the second takes the whole
curves of those.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mmxai.kernels.cells import CellLabels
from mmxai.kernels.mask_counts import mask_counts
from mmxai.methods.dissect import curves, measures
from mmxai.methods.dissect.config import Area
from mmxai.methods.dissect.curves import Curves
from mmxai.methods.dissect.levels import LEVELS
from mmxai.methods.dissect.tally import Seen
from mmxai.methods.dissect.thresholds import Threshold

COARSE = 12
"""Levels at which all concepts are counted."""

_UNITS = 256  # units whose F1 with all concepts are held at once


class Coarse:
    """Counts of U units with all columns at `COARSE` of their levels `[U, L]`."""

    def __init__(self, levels: torch.Tensor, category: np.ndarray, categories: int):
        at = np.linspace(0, levels.shape[1] - 1, COARSE + 1)[:-1].round().astype(np.int64)
        self._thresholds = levels[:, torch.from_numpy(at)].T.contiguous()
        self._category = category
        columns = len(category) + categories + 1
        self._table = torch.zeros(COARSE, len(levels), columns, dtype=torch.int64)
        self._label = torch.zeros(columns, dtype=torch.int64)

    @property
    def least(self) -> float:
        return float(self._thresholds.min())

    def add(self, seen: Seen) -> None:
        cells = CellLabels.cat(seen.pieces([v.own for v in seen.views]))
        self._label += cells.totals(len(self._label))
        for threshold, table in zip(self._thresholds, self._table, strict=True):
            mask_counts(seen.x, threshold, cells, table)

    def candidates(self, area: Area, most: int) -> np.ndarray:
        """Concepts whose F1 at any of the levels is furthest above that of a mask of everything, best first:
        int64 `[U, most]`, -1 where there are no more."""
        c = len(self._category)
        most = min(most, c)
        table, label = self._table.numpy(), self._label.numpy()
        truth = label[:c]
        every = measures.f1(truth, label[-1:] if area == "everywhere" else label[c:-1][self._category], truth)
        out = np.empty((table.shape[1], most), np.int64)
        for start in range(0, len(out), _UNITS):
            own = table[:, start : start + _UNITS]
            unit = own[:, :, -1:] if area == "everywhere" else own[:, :, c:-1][:, :, self._category]
            best = measures.f1(own[:, :, :c], unit, truth).max(0)
            order = np.argsort(every - best, axis=1, kind="stable")[:, :most]
            some = np.take_along_axis(best, order, 1) > 0
            out[start : start + _UNITS] = np.where(some, order, -1)
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        return {"table": self._table.numpy(), "label": self._label.numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._table, self._label = (torch.from_numpy(arrays[name].copy()) for name in ("table", "label"))


class Fine:
    """Curves of units with their candidates. `lowest`: what a threshold is at least."""

    least = 0.0  # curves are taken of entries, too

    def __init__(self, held: Curves, lowest: float):
        self.curves, self._lowest = held, lowest

    def add(self, seen: Seen) -> None:
        pieces = seen.pieces([v.own for v in seen.views])
        for (_, own), piece in zip(seen, pieces, strict=True):
            self.curves.add(seen.part(own), piece)

    def threshold(self) -> Threshold:
        return Threshold(
            torch.from_numpy(self.curves.best_f1(self._lowest)),
            f"that of {LEVELS} levels which has the best F1 with a concept on the pictures not held out",
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return self.curves.arrays()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.curves.restore(arrays)


def bytes_of(concepts: int, categories: int, candidates: int, area: Area) -> int:
    """Bytes a unit."""
    return max(8 * COARSE * (concepts + categories + 1), curves.bytes_of(candidates, area))
