"""How well a mask fits a label, from counts of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Values = np.ndarray

_VARIES = 1e-6
"""Share of the mean square from which on a variance is more than what rounding leaves of a constant's."""


def ratio(part: ArrayLike, whole: ArrayLike) -> Values:
    """float64; 0 where the whole is 0: a mask or label without pixels fits nothing."""
    below = np.asarray(whole, np.float64)
    return np.divide(part, below, out=np.zeros(np.broadcast(part, below).shape), where=below != 0)


def iou(inter: ArrayLike, unit: ArrayLike, label: ArrayLike) -> Values:
    """Intersection over union, of counts that broadcast: `unit` pixels of the mask, `label` of the label."""
    union = np.asarray(unit, np.int64) + np.asarray(label, np.int64) - np.asarray(inter, np.int64)
    return ratio(inter, union)


def precision(inter: ArrayLike, unit: ArrayLike) -> Values:
    """Share of the mask that the label covers."""
    return ratio(inter, unit)


def recall(inter: ArrayLike, label: ArrayLike) -> Values:
    """Share of the label that the mask covers."""
    return ratio(inter, label)


def f1(inter: ArrayLike, unit: ArrayLike, label: ArrayLike) -> Values:
    """Harmonic mean of precision and recall (Dice): in the order of the IoU."""
    return ratio(2 * np.asarray(inter, np.int64), np.asarray(unit, np.int64) + np.asarray(label, np.int64))


def phi(inter: ArrayLike, unit: ArrayLike, label: ArrayLike, pixels: ArrayLike) -> Values:
    """Correlation of mask and label over `pixels`; NaN where either is everywhere or nowhere."""
    i, u, c, n = (np.asarray(v, np.float64) for v in (inter, unit, label, pixels))
    spread = np.sqrt(u) * np.sqrt(c) * np.sqrt(n - u) * np.sqrt(n - c)
    out = np.full(np.broadcast(i, spread).shape, np.nan)
    return np.divide(n * i - u * c, spread, out=out, where=spread > 0)


def correlation(
    along: ArrayLike, total: ArrayLike, squares: ArrayLike, label: ArrayLike, pixels: ArrayLike
) -> Values:
    """Of an activation with a label (point-biserial), over `pixels`: sums of values over the label's pixels,
    over all, and of their squares. NaN where the activation is constant (to a thousandth of its size, for
    sums are of float32 products) or the label everywhere or nowhere."""
    s, t, q, c, n = (np.asarray(v, np.float64) for v in (along, total, squares, label, pixels))
    some = np.maximum(n, 1)
    variance, place = q - t * t / some, c * (1 - c / some)
    spread = np.sqrt(np.maximum(variance, 0) * np.maximum(place, 0))
    out = np.full(np.broadcast(s, spread).shape, np.nan)
    real = (variance > _VARIES * q) & (place > 0)
    return np.divide(s - t * c / some, spread, out=out, where=real)


def unique_labels(labels: np.ndarray, detectors: np.ndarray) -> int:
    """How many labels the units that are detectors have between them."""
    return len(np.unique(labels[detectors & (labels >= 0)]))
