"""Intervals of IoUs by resampling pictures: each counts Poisson(1) times in each resample (Hanley and
MacGibbon 2006), which streams: a picture's weights come from a hash of its number and are needed once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmxai.methods.dissect.config import Area
from mmxai.methods.dissect.measures import ratio

_WAITING = 1 << 21
"""Counts of single pictures that are held at once."""


class Bootstrap:
    """Of U units their R `candidates`, concepts int64 `[U, R]` (-1: none), in `resamples` resamples."""

    def __init__(
        self,
        candidates: np.ndarray,
        category: np.ndarray,
        categories: int,
        resamples: int,
        seed: int,
        area: Area,
    ):
        self._candidates, self.resamples, self._seed = candidates, resamples, seed
        concepts = len(category)
        self._columns = concepts + categories + 1
        everywhere = np.full(candidates.shape, self._columns - 1)
        self._area = everywhere if area == "everywhere" else concepts + category[candidates]
        self._inter, self._union = (np.zeros((resamples, candidates.size)) for _ in range(2))
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, sample: int, present: np.ndarray, local: np.ndarray, total: np.ndarray) -> None:
        """A picture's columns `[P]`, its masks' pixels of them `[U, P]`, all their pixels `[P]`."""
        absent = len(present)  # where zeros are put
        where = np.full(self._columns, absent)
        where[present] = np.arange(absent)
        local = np.concatenate([local, np.zeros((len(local), 1), np.int64)], 1)
        total = np.append(total, 0)
        own = np.where(self._candidates < 0, absent, where[self._candidates])
        units = np.arange(len(local))[:, None]
        inter = local[units, own]
        union = local[units, where[self._area]] + total[own] - inter
        draw = np.random.Generator(np.random.Philox(key=np.array([self._seed, sample], np.uint64)))
        self._waiting.append((draw.poisson(1.0, self.resamples), inter.ravel(), union.ravel()))
        if len(self._waiting) * inter.size >= _WAITING:
            self.flush()

    def flush(self) -> None:
        """Take in what was added. Whole numbers below 2^53: sums are exact in any order."""
        if not self._waiting:
            return
        weights, inter, union = (np.stack(v).astype(np.float64) for v in zip(*self._waiting, strict=True))
        self._inter += weights.T @ inter
        self._union += weights.T @ union
        self._waiting.clear()

    def interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Percentiles low and high, float64 `[U, R]`; NaN where there is no candidate."""
        found = ratio(self._inter, self._union).reshape(self.resamples, *self._candidates.shape)
        low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        none = self._candidates < 0
        low[none], high[none] = np.nan, np.nan
        return low, high

    def arrays(self) -> dict[str, np.ndarray]:
        return {"inter": self._inter, "union": self._union}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._inter, self._union = arrays["inter"].copy(), arrays["union"].copy()


def bytes_of(candidates: int, resamples: int) -> int:
    """Bytes a unit."""
    return 16 * candidates * resamples
