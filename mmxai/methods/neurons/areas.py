"""ROC-AUC of every unit for every label, from one pass in bounded memory.

Rows are counted by unit, label and bin, where bins order as the values do: sign, exponent and leading bits of
the mantissa, over a window of octaves. The area under the ROC curve is the Mann-Whitney statistic (Hanley and
McNeil 1982), a tie counting half, so that it is exact wherever no bin holds unequal values: of a site stored
in bfloat16 all bins but those beyond the window. Elsewhere half of the pairs that share such a bin bound what
ties can hide: `error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmxai.errors import ArgumentError

_ALL = 256  # octaves of a float32, those of numbers too small for an exponent of their own as one
_OCTAVES, _FEWEST_BITS = 16, 5
_HEADROOM = 3  # octaves of the window above the largest value of the first block
_MANTISSA = {torch.bfloat16: 7, torch.float16: 10}


@dataclass(frozen=True)
class Bins:
    """Of a value's magnitude: `mantissa` leading bits, over `octaves`; beside these 0, what lies below the
    window and what lies above it."""

    mantissa: int
    octaves: int

    @property
    def half(self) -> int:
        """Bins of one sign within the window."""
        return self.octaves << self.mantissa

    @property
    def count(self) -> int:
        return 2 * (self.half + 2) + 1

    def window(self, raw: np.ndarray) -> np.ndarray:
        """The lowest magnitude key of each unit's window, int32 `[U, 1]`, by its early values.

        Of units that were silent so far by those of all.
        """
        top = (raw & np.uint32(0x7FFFFFFF)).max(1, keepdims=True) >> np.uint32(23)
        top = np.where(top == 0, top.max(), top).astype(np.int32)
        return np.maximum(0, top + 1 + _HEADROOM - self.octaves) << self.mantissa

    def of(self, raw: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bins int32 `[U, N]` of float32 values seen as uint32, and where a bin may hold others, bool."""
        magnitude = raw & np.uint32(0x7FFFFFFF)
        key = (magnitude >> np.uint32(23 - self.mantissa)).astype(np.int32) - low + 2
        step = np.clip(key, 1, self.half + 2)
        mixed = (step != key) | (key == 1) | (key == self.half + 2)
        mixed |= (magnitude & np.uint32((1 << (23 - self.mantissa)) - 1)) != 0
        nothing = magnitude == 0
        step[nothing], mixed[nothing] = 0, False
        return self.half + 2 + np.where(raw >> np.uint32(31), -step, step), mixed


def bins_of(dtype: torch.dtype, units: int, labels: int, memory: int) -> Bins:
    """As fine as `memory` bytes allow: at first with fewer octaves, then with fewer bits."""
    room = memory // (_bytes(labels) * max(1, units))
    most = _MANTISSA.get(dtype, 12)
    for mantissa in range(most, _FEWEST_BITS, -1):
        octaves = min(_ALL, (room - 5) // 2 >> mantissa)
        if octaves >= _OCTAVES:
            return Bins(mantissa, octaves)
    return Bins(_FEWEST_BITS, _OCTAVES)


def groups(units: int, labels: int, memory: int) -> list[range]:
    """Units whose coarsest counts fit in `memory` bytes together: one group, but of many units and labels."""
    one = _bytes(labels) * Bins(_FEWEST_BITS, _OCTAVES).count
    if memory < one:
        raise ArgumentError(
            f"AUC: got memory={memory:,} bytes, expected at least {one:,}, the counts of one unit by "
            f"{labels} labels"
        )
    each = memory // one
    return [range(start, min(units, start + each)) for start in range(0, units, each)]


def _bytes(labels: int) -> int:
    """Of one bin of one unit: a count a label, one of all rows, a flag."""
    return 4 * (labels + 1) + 1


class Areas:
    """Of one group of units: rows by label and bin."""

    def __init__(self, units: range, labels: int, bins: Bins):
        self.units, self._bins, self._labels = units, bins, labels
        self._counts = np.zeros((len(units), (labels + 1) * bins.count), np.uint32)  # the last: of all rows
        self._mixed = np.zeros((len(units), bins.count), bool)
        self._low: np.ndarray | None = None

    def add(self, x: torch.Tensor, labels: np.ndarray) -> None:
        """Labelled rows, float32 `[N, all units]`, and their labels, bool `[N, K]`."""
        if not len(x):
            return
        mine = x[:, self.units.start : self.units.stop] + 0.0  # one zero of both
        raw = np.ascontiguousarray(mine.T.numpy()).view(np.uint32)
        if self._low is None:
            self._low = self._bins.window(raw)
        keys, mixed = self._bins.of(raw, self._low)
        row, label = np.nonzero(labels)
        row = np.concatenate([row, np.arange(len(x))])
        first = np.concatenate([label, np.full(len(x), self._labels)]) * self._bins.count
        one = np.uint32(1)  # of the counts' own type: of another, numpy adds at a fiftieth of the speed
        for own, key in zip(self._counts, keys, strict=True):
            np.add.at(own, first + key[row], one)
        unit, at = np.nonzero(mixed)
        self._mixed[unit, keys[unit, at]] = True

    def auc(self) -> tuple[np.ndarray, np.ndarray]:
        """AUC float32 `[units, K]`, and by how much it may be off.

        NaN where all labelled rows have a label, or none.
        """
        found = [self._of(own, mixed) for own, mixed in zip(self._counts, self._mixed, strict=True)]
        area, error = (np.stack(v).astype(np.float32) for v in zip(*found, strict=True))
        return area, error

    def _of(self, own: np.ndarray, mixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = own.reshape(self._labels + 1, -1)
        there = np.flatnonzero(table[-1])
        counts, mixed = table[:, there].astype(np.float64), mixed[there]
        have, every = counts[:-1], counts[-1]
        positive, n = have.sum(1), every.sum()
        pairs = positive * (n - positive)
        # Sums of mid-ranks, less those of rows with the label among themselves.
        wins = have @ (np.cumsum(every) - 0.5 * every) - 0.5 * positive**2
        ties = 0.5 * (have * (every - have))[:, mixed].sum(1)
        none = np.where(pairs > 0, pairs, np.nan)
        return wins / none, ties / none
