"""How well scores tell labels, with the resamples behind every figure.

Everything is a function of sums over items (how many right, placements, ...), so that a resample costs a row
of a matrix product and no second look at the items.
"""

from __future__ import annotations

import numpy as np

from mmxai.methods.probe.bootstrap import Bootstrap

BINS = 15
"""Of the expected calibration error (Guo et al. 2017)."""

_TOGETHER = 16  # classes whose sums are taken at once: each time, weights are turned to floats

CLASSES = ("accuracy", "balanced accuracy", "F1", "AUC", "ECE", "log loss")
NUMBERS = ("R2", "RMSE")


def of_classes(scores: np.ndarray, logp: np.ndarray, y: np.ndarray, boot: Bootstrap) -> dict[str, np.ndarray]:
    """Figures `[1 + B]` (see `Bootstrap.sums`) of `scores` float `[n, K]`, of which the largest is the
    answer.

    logp: logarithms of the probabilities `[n, K]` that calibration and log loss (bits an item) are of. y:
    int64 `[n]`. Balanced accuracy, F1 and AUC (one against the rest) are means over the classes there are.
    """
    answer = scores.argmax(1)
    right = answer == y
    at = np.arange(len(y))
    n, hits, loss = boot.sums(np.stack([np.ones(len(y)), right, -logp[at, y] / np.log(2)], 1)).T
    recall, f1, auc = [], [], []
    for first in range(0, scores.shape[1], _TOGETHER):
        columns: list[np.ndarray] = []
        for k in range(first, min(first + _TOGETHER, scores.shape[1])):
            own = y == k
            columns += [own & right, answer == k, own, *_areas(scores[:, k], own)]
        sums = boot.sums(np.stack(columns, 1)).T
        for tp, said, there, high, low in sums.reshape(-1, 5, sums.shape[1]):
            recall.append(_ratio(tp, there))
            f1.append(_ratio(2 * tp, said + there))
            auc.append(_auc(high, there, low, n - there))
    out = {"accuracy": hits / n, "balanced accuracy": _mean(recall), "F1": _mean(f1), "AUC": _mean(auc)}
    return out | {"ECE": _ece(np.exp(logp[at, answer]), right, boot), "log loss": loss / n}


def of_labels(scores: np.ndarray, logp: np.ndarray, y: np.ndarray, boot: Bootstrap) -> dict[str, np.ndarray]:
    """The same of labels that are there or not, each by itself, and the mean over labels.

    scores: `[n, K]`, above 0 where the label is said to be there; logp: log probability that it is, `[n, K]`;
    y: int8 `[n, K]`. Log loss is the sum over labels, in bits an item.
    """
    every = []
    for k in range(scores.shape[1]):
        own, said = y[:, k] == 1, scores[:, k] > 0
        gone = np.log(-np.expm1(np.minimum(logp[:, k], -1e-12)))
        answer = np.exp(np.where(said, logp[:, k], gone))
        cost = -np.where(own, logp[:, k], gone) / np.log(2)
        columns = [np.ones(len(y)), own & said, said, own, own == said, cost, *_areas(scores[:, k], own)]
        n, tp, positive, there, right, loss, high, low = boot.sums(np.stack(columns, 1)).T
        absent = n - positive - there + tp
        found = {
            "accuracy": right / n,
            "balanced accuracy": _mean([_ratio(tp, there), _ratio(absent, n - there)]),
            "F1": _ratio(2 * tp, positive + there),
            "AUC": _auc(high, there, low, n - there),
            "ECE": _ece(answer, own == said, boot),
            "log loss": loss / n,
        }
        every.append(found)
    out = {name: _mean([one[name] for one in every]) for name in CLASSES}
    return out | {"log loss": np.sum([one["log loss"] for one in every], 0)}


def of_numbers(scores: np.ndarray, y: np.ndarray, boot: Bootstrap) -> dict[str, np.ndarray]:
    """R2 (NaN of numbers all alike) and root mean squared error `[1 + B]` of predictions `[n]` of float
    `[n]`."""
    centre = y.mean()  # squares of large numbers close together would lose their digits
    z = y - centre
    n, total, squares, off = boot.sums(np.stack([np.ones(len(y)), z, z * z, (scores - y) ** 2], 1)).T
    spread = squares - total**2 / n
    # A resample of one item alone has none; what rounding leaves of it would be divided by.
    spread[spread <= 1e-12 * squares] = 0
    return {"R2": 1 - _ratio(off, spread), "RMSE": np.sqrt(off / n)}


def placements(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of a positive the share of negatives below it, of a negative that of positives above it; ties are
    halves.

    scores float `[n]`, own bool `[n]` -> float64 `[n]`. The mean over either is the area under the ROC curve.
    """
    high, low = np.sort(scores[own]), np.sort(scores[~own])
    out = np.empty(len(scores))
    below = np.searchsorted(low, scores[own], "left") + np.searchsorted(low, scores[own], "right")
    above = np.searchsorted(high, scores[~own], "left") + np.searchsorted(high, scores[~own], "right")
    out[own] = below / (2 * len(low))
    out[~own] = 1 - above / (2 * len(high))
    return out


def _areas(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placements of positives, and of negatives, each 0 elsewhere: float64 `[n]`."""
    if own.all() or not own.any():
        return np.zeros(len(own)), np.zeros(len(own))
    v = placements(scores, own)
    return v * own, v * ~own


def _auc(high: np.ndarray, some: np.ndarray, low: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From sums of `_areas` and the numbers of positives and negatives. Exact; its resamples are of the
    placements (DeLong et al. 1988), the first-order part of what resampling pairs would give."""
    both = _ratio(high, some) + _ratio(low, others)
    area: np.ndarray = both - both[0] / 2
    return area


def _ece(confidence: np.ndarray, right: np.ndarray, boot: Bootstrap) -> np.ndarray:
    which = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = np.zeros((len(confidence), BINS))
    gap[np.arange(len(confidence)), which] = right - confidence
    sums = boot.sums(np.column_stack([gap, np.ones(len(gap))]))
    error: np.ndarray = np.abs(sums[:, :-1]).sum(1) / sums[:, -1]
    return error


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, items) of each bin that has items."""
    which = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        (float(confidence[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (which == b for b in range(BINS))
        if own.any()
    ]


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by: a class that a resample has not."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def _mean(every: list[np.ndarray]) -> np.ndarray:
    """Over those that are numbers."""
    table = np.stack(every)
    known = np.isfinite(table)
    count = known.sum(0)
    total = np.where(known, table, 0).sum(0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
