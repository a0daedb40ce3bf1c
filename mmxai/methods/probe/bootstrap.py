"""Intervals by resampling whole samples: rows of one picture or text are not independent of each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 21  # weights turned to floats at once, 16 MiB


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that its resamples lie in."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, confidence: float) -> Estimate:
        """From `[1 + B]`: the figure itself, then its resamples."""
        resampled = values[1:][np.isfinite(values[1:])]
        if not len(resampled):
            return cls(float(values[0]), float("nan"), float("nan"))
        low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
        return cls(float(values[0]), float(low), float(high))


class Bootstrap:
    """`resamples` draws of as many samples as there are, with replacement (Efron 1979); the same for whatever
    is measured on them, so that differences are paired.

    samples: int64 `[n]`, the sample of each item; items of one sample stand together.
    """

    def __init__(self, samples: np.ndarray, resamples: int, seed: int):
        self._starts = np.flatnonzero(np.diff(samples, prepend=samples[:1] - 1))
        count = len(self._starts)
        draw = np.random.default_rng(seed)
        # Of a thousand resamples of n samples none is drawn 255 times: counts are about Poisson(1).
        self._weights = np.empty((resamples, count), np.uint8)
        for row in self._weights:
            row[:] = np.bincount(draw.integers(0, count, count), minlength=count)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Totals of per-item `columns` `[n, M]`, float64 `[1 + B, M]`: as they are, then of each resample."""
        each = np.add.reduceat(columns, self._starts, axis=0, dtype=np.float64)
        out = np.empty((1 + len(self._weights), columns.shape[1]))
        out[0] = each.sum(0)
        step = max(1, _CHUNK // max(1, len(each)))
        for start in range(0, len(self._weights), step):
            block = self._weights[start : start + step].astype(np.float64)
            with np.errstate(invalid="ignore"):  # an infinite loss that a resample has none of: NaN
                out[1 + start : 1 + start + len(block)] = block @ each
        return out
