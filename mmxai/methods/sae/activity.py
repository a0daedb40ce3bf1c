"""Which latents are active on which items (pictures, patches), and how well each tells labels apart.

Everything here is exact: a latent's threshold runs over all of its values, and the many items on which it is
silent are one tied group at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FEWEST = 8
"""A label with fewer positives, or negatives, is not scored: its figures would say nothing."""


@dataclass
class Activity:
    """Entries of a sparse matrix `[items, width]`, activations above 0, each (item, latent) once.

    items int64 `[n]` ascending, latents int32 `[n]`, values float32 `[n]`; `count` items in all.
    """

    items: np.ndarray
    latents: np.ndarray
    values: np.ndarray
    count: int
    width: int

    @classmethod
    def highest(
        cls, items: np.ndarray, latents: np.ndarray, values: np.ndarray, count: int, width: int
    ) -> Activity:
        """From entries in any order; of several for one (item, latent) the largest counts."""
        key = items.astype(np.int64) * width + latents
        order = np.argsort(key, kind="stable")
        key, values = key[order], values[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        most = np.maximum.reduceat(values, first) if len(first) else values[:0]
        items, latents = np.divmod(key[first], width)
        return cls(items, latents.astype(np.int32), most.astype(np.float32), count, width)

    def among(self, kept: np.ndarray) -> Activity:
        """The items where bool `[count]` is true, numbered anew."""
        number = np.cumsum(kept) - 1
        mask = kept[self.items]
        return Activity(
            number[self.items[mask]], self.latents[mask], self.values[mask], int(kept.sum()), self.width
        )

    @cached_property
    def by_latent(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries sorted by latent, the largest value first: their order `[n]`, and starts `[width + 1]`."""
        order = np.lexsort((-self.values, self.latents))
        counts = np.bincount(self.latents, minlength=self.width)
        return order, np.concatenate([[0], np.cumsum(counts)])

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Items on which a latent is active, and its values, largest first."""
        order, starts = self.by_latent
        own = order[starts[latent] : starts[latent + 1]]
        return self.items[own], self.values[own]

    def on(self, latent: int, threshold: float) -> np.ndarray:
        """bool `[count]`: where a latent is at least `threshold` (and active)."""
        items, values = self.of(latent)
        out = np.zeros(self.count, bool)
        out[items[values >= threshold]] = True
        return out


@dataclass
class Sweep:
    """For every latent and label `f1`, the best over all thresholds, and its `threshold`: float32 `[M, C]`.

    A latent that is never active has f1 0 and threshold inf.
    """

    f1: np.ndarray
    threshold: np.ndarray


def sweep(activity: Activity, labels: np.ndarray) -> Sweep:
    """Every threshold of every latent against every label, bool `[count, C]`.

    Predicted: the activation is at least the threshold, which is above 0.
    """
    m, c = activity.width, labels.shape[1]
    positive = labels.sum(0)
    found = Sweep(np.zeros((m, c), np.float32), np.full((m, c), np.inf, np.float32))
    for latent in range(m):
        items, values = activity.of(latent)
        if not len(items):
            continue
        ends = np.flatnonzero(np.diff(values, append=-np.inf))
        # int32 sums: a block of labels of an often active latent is the most memory this takes.
        hits = np.cumsum(labels[items], 0, dtype=np.int32)[ends]
        f1 = 2 * hits / ((ends + 1)[:, None] + positive)
        best = f1.argmax(0)
        found.f1[latent] = f1[best, np.arange(c)]
        found.threshold[latent] = values[ends[best]]
    return found


@dataclass(frozen=True)
class Counted:
    """A prediction against a label: precision, recall, F1 and intersection over union."""

    precision: float
    recall: float
    f1: float
    iou: float


def counted(predicted: np.ndarray, label: np.ndarray) -> Counted:
    """Of bool `[n]` both; nothing predicted has precision 0."""
    both, said, true = int((predicted & label).sum()), int(predicted.sum()), int(label.sum())
    return Counted(
        both / max(1, said),
        both / max(1, true),
        2 * both / max(1, said + true),
        both / max(1, said + true - both),
    )


def auprc(activity: Activity, latent: int, label: np.ndarray) -> float:
    """Average precision of one latent for bool `[count]`: the sum of precision times the rise in recall
    (Davis and Goadrich 2006), tied values taken at once. NaN where no item has the label."""
    items, values = activity.of(latent)
    positive, base = int(label.sum()), float(label.mean())
    if not positive:
        return float("nan")
    if not len(items):
        return base
    ends = np.flatnonzero(np.diff(values, append=-np.inf))
    hits = np.cumsum(label[items], dtype=np.int64)[ends]
    area = (np.diff(hits, prepend=0) * (hits / (ends + 1))).sum()
    # The silent items come last, all at once, at the precision of the base rate.
    return float((area + (positive - hits[-1]) * base) / positive)
