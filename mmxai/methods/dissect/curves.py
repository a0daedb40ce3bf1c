"""Precision and recall of units with chosen concepts over all thresholds: how many pixels of a concept, and
in all, lie between any two levels of a unit's values.

A pixel has the value of its cell, in both modes. What lies at the levels is exact; the order of pixels
between two levels is not known, and the most that it can change is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes
from mmxai.methods.dissect import measures
from mmxai.methods.dissect.bins import add_bins
from mmxai.methods.dissect.config import Area
from mmxai.methods.dissect.levels import LEVELS, just_below
from mmxai.methods.dissect.values import Values, row_of


class Curves:
    """Of U units with R concepts each, `candidates` int64 `[U, R]` (-1: none). `levels`: float32 `[U, L]`,
    ascending. Bin b is what is above b levels exactly."""

    def __init__(
        self, levels: torch.Tensor, candidates: np.ndarray, category: np.ndarray, categories: int, area: Area
    ):
        self._levels, self._candidates = levels, candidates
        concepts = len(category)
        self._none = concepts + categories + 1
        if area == "everywhere":
            where = np.full((len(candidates), 1), self._none - 1)
        else:
            where = np.where(candidates < 0, self._none, concepts + category[candidates])
        columns = np.concatenate([np.where(candidates < 0, self._none, candidates), where], 1)
        self._columns = torch.from_numpy(columns)
        self._bins = torch.zeros(*columns.shape, levels.shape[1] + 1, dtype=torch.int64)

    def add(self, x: Values, cells: CellLabels) -> None:
        """The values of one picture's cells `[T, U]`, and the labels of those cells."""
        present = cells.present()
        if not len(present):
            return
        where = torch.full((self._none + 1,), -1)
        where[present] = torch.arange(len(present))
        local = where[self._columns]
        unit, pair = (local >= 0).nonzero(as_tuple=True)
        start = (unit * self._columns.shape[1] + pair) * self._bins.shape[2]
        area = cells.dense(present).T.contiguous().long()  # [P, T]
        flat = self._bins.view(-1)
        if isinstance(x, torch.Tensor):
            values = x.T.float().contiguous().numpy()
            pairs = (v.numpy() for v in (unit, local[unit, pair], start))
            add_bins(values, self._levels.numpy(), *pairs, area.numpy(), flat.numpy())
            return
        self._add_entries(x, start, local, area, flat)

    def _add_entries(
        self, x: Codes, start: torch.Tensor, local: torch.Tensor, area: torch.Tensor, flat: torch.Tensor
    ) -> None:
        """All cells are of value 0 but for the entries, which are moved from there."""
        zero = torch.searchsorted(self._levels, torch.zeros(len(self._levels), 1))[:, 0]
        unit, pair = (local >= 0).nonzero(as_tuple=True)
        flat.index_add_(0, start + zero[unit], area.sum(1)[local[unit, pair]])
        if not len(x.values):
            return
        own, row = x.indices.long(), row_of(x)
        # Entries beside the levels of their units, one unit after another.
        order = own.argsort(stable=True)
        own, row, value = own[order], row[order], x.values[order]
        units, counts = own.unique_consecutive(return_counts=True)
        first = counts.cumsum(0) - counts
        beside = torch.full((len(units), int(counts.max())), torch.inf)
        place = torch.arange(len(own)) - first.repeat_interleave(counts)
        which = torch.arange(len(units)).repeat_interleave(counts)
        beside[which, place] = value
        bins = torch.searchsorted(self._levels[units], beside)[which, place]
        there = local[own]  # [E, pairs]
        entry, pair = (there >= 0).nonzero(as_tuple=True)
        pixels = area[there[entry, pair], row[entry]]
        base = (own[entry] * local.shape[1] + pair) * self._bins.shape[2]
        flat.index_add_(0, base + bins[entry], pixels)
        flat.index_add_(0, base + zero[own[entry]], -pixels)

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair the pixels of the concept, and of its area, from each bin up: int64 `[U, R, L + 1]`
        both (the second maybe `[U, 1, L + 1]`)."""
        upward = self._bins.flip(2).cumsum(2).flip(2).numpy()
        some = self._candidates.shape[1]
        return upward[:, :some], upward[:, some:]

    def best_f1(self, least: float = -np.inf) -> np.ndarray:
        """The level, from `least` up, above which a unit's mask has the highest F1 with one of its
        candidates: the one with which that is furthest above the F1 of a mask of everything, which for a
        frequent concept is high. float32 `[U]`; of a unit that is above it with none its highest level."""
        own, area = self._above()  # from bin b + 1 up is what is above level b
        f1 = measures.f1(own, area, own[:, :, :1])
        levels = self._levels.numpy()
        inner = np.where(levels[:, None] >= least, f1[:, :, 1:], 0.0)
        gain = np.where(own[:, :, 0] > 0, inner.max(2) - f1[:, :, 0], -np.inf)
        rows = np.arange(len(f1))
        best = inner[rows, gain.argmax(1)]
        level = np.where(gain.max(1) > 0, best.argmax(1), levels.shape[1] - 1)
        return np.asarray(levels[rows, level])

    def auprc(self) -> tuple[np.ndarray, np.ndarray]:
        """Average precision (the mean of the precision at each positive pixel's value) with the levels as
        thresholds, float64 `[U, R]`, and how far at most that over all values is from it. NaN where there is
        no candidate or no pixel of it."""
        some = self._candidates.shape[1]
        own, area = (v.astype(np.float64) for v in self._above())
        bins = self._bins.numpy().astype(np.float64)
        hit, every = bins[:, :some], bins[:, some:]
        before, taken = own - hit, area - every
        total = own[:, :, 0]
        # A bin of a single value: its pixels are ties, and have one precision.
        tied = (just_below(self._levels[:, 1:]) <= self._levels[:, :-1]).numpy()
        tied = np.pad(tied, ((0, 0), (1, 1)))[:, None]
        value = hit * measures.ratio(before + hit, taken + every)
        # All its positives first; or last, one after another: the sum of (before + i) / (n + i), i to hit,
        # where the sum of 1 / (n + i) is at most log((n + hit + 1/2) / (n + 1/2)).
        most = hit * measures.ratio(before + hit, taken + hit)
        n = taken + every - hit
        least = np.maximum(hit - (n - before) * np.log((n + hit + 0.5) / (n + 0.5)), 0)
        least, most = (np.where(tied, value, v) for v in (least, most))
        mean, low, high = (measures.ratio(v.sum(2), total) for v in (value, least, most))
        none = total == 0
        bound = np.maximum(high - mean, mean - low)
        return np.where(none, np.nan, mean), np.where(none, np.nan, bound)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"bins": self._bins.numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._bins = torch.from_numpy(arrays["bins"].copy())


def bytes_of(candidates: int, area: Area) -> int:
    """Bytes a unit."""
    return 8 * (LEVELS + 1) * (candidates + (1 if area == "everywhere" else candidates))
