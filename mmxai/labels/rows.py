"""Labels of a store's rows: each token by its sample's, each patch by what covers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.labels.labels import Labels, Task, unknown

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.types import Rows

OVERLAP = 0.5
"""A cell has a label where that covers at least so much of it."""

_BLOCK = 1024  # (sample, tile) pairs whose shares are found at once


def row_values(
    labels: Labels, tasks: Sequence[Task], store: Store, space: str, rows: Rows, *, overlap: float = OVERLAP,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Values of `tasks` (of one level) for rows of a row space: name -> `[N, ...]`, as `Labels` has them.

    Of a task of samples a row has its sample's. Of a task of cells with classes a patch has the label that
    covers most of it (of two alike the first), where that is at least `overlap` of it; where the last of
    `names` is "none" (see `Task.with_none`) a patch of a known sample that no label touches is that; any
    other is unknown. Of multilabel tasks a patch has every label that covers at least `overlap` of it. A row
    that is no patch, or of a sample of which nothing is known, is unknown.
    """
    if not 0 < overlap <= 1:
        raise ArgumentError(f"labels: got overlap {overlap}, expected a share above 0, at most 1")
    levels = {task.level for task in tasks}
    if len(levels) > 1:
        raise ArgumentError(f"labels: got tasks of {sorted(levels)} at once, expected one level")
    samples = rows.sample.numpy().astype(np.int64)
    if levels == {"sample"}:
        own, at = np.unique(samples, return_inverse=True)
        return {task.name: labels.values(task, own)[at] for task in tasks}
    out = {task.name: unknown(task, len(rows)) for task in tasks}
    y, x, image = (getattr(rows, c).numpy().astype(np.int64) for c in ("y", "x", "image"))
    cells = np.flatnonzero((y >= 0) & (x >= 0))
    places, groups = _groups(samples[cells], np.maximum(image[cells], 0))
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        stored = [(store.samples[s], i) for s, i in block]
        tiled = [(sample, sample.tile_in(space, i)) for sample, i in stored]
        for share, group in zip(labels.shares(tiled), groups[start : start + _BLOCK], strict=True):
            own = cells[group]
            for task in tasks:
                if (found := share[task.name]) is not None:
                    out[task.name][own] = _of_cells(task, found[:, y[own], x[own]], overlap)
    return out


def _groups(samples: np.ndarray, images: np.ndarray) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
    """(sample, image) pairs, and the indices of each."""
    if not len(samples):
        return [], []
    pairs, which = np.unique(np.stack([samples, images], 1), axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    cuts = np.flatnonzero(np.diff(which[order])) + 1
    return [(int(s), int(i)) for s, i in pairs], np.split(order, cuts)


def _of_cells(task: Task, shares: np.ndarray, overlap: float) -> np.ndarray:
    """Values of cells from the shares of them `[K, n]`."""
    # Shares are sums of areas: a cell covered to exactly the threshold must not fall below by rounding.
    threshold = overlap - 1e-9
    if task.kind == "multilabel":
        return (shares >= threshold).astype(np.int8).T
    best = shares.argmax(0)
    value = np.where(shares.max(0, initial=0) >= threshold, best, -1)
    if task.names[-1] == "none" and task.width == len(shares) + 1:
        value[shares.sum(0) <= 1e-9] = task.width - 1
    return value
