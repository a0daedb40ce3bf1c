"""What is known of the samples that a store was harvested from: concepts of each, labels of their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.models.geometry import mask_cells

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.types import Rows

COVERED = 0.5
"""A cell has a label where that covers at least so much of it."""


@dataclass(frozen=True)
class Truth:
    """`present(samples)`: int64 `[n]` data set indices -> bool `[n, C]`, which of `names` each sample has.

    `labels(samples)` -> bool `[n, K, H, W]`, which pixels of the original picture have which of `cell_names`;
    None where samples are no pictures, or nothing is known of their pixels. `embed(samples)` -> float
    `[n, F]`, vectors whose cosine says how alike two samples are (for monosemanticity); None: the concepts
    themselves, less their mean.
    """

    names: tuple[str, ...]
    present: Callable[[np.ndarray], np.ndarray]
    cell_names: tuple[str, ...] = ()
    labels: Callable[[np.ndarray], np.ndarray] | None = None
    embed: Callable[[np.ndarray], np.ndarray] | None = None

    @classmethod
    def of_world(cls, world: Any) -> Truth:
        """All that a `mmxai.shapes.ShapesWorld` knows; the store's data must have been that world."""
        categories = world.label_names

        def pixels(samples: np.ndarray) -> np.ndarray:
            maps = world.batch(samples, texts=0).labels
            return np.concatenate(
                [
                    maps[name][:, None] == np.arange(1, len(values) + 1)[:, None, None]
                    for name, values in categories.items()
                ],
                axis=1,
            )

        return cls(
            tuple(world.concept_names),
            lambda samples: world.batch(samples, texts=0).concepts,
            tuple(value for values in categories.values() for value in values),
            pixels,
        )

    @classmethod
    def of_table(cls, names: Sequence[str], present: np.ndarray) -> Truth:
        """Concepts of a whole data set: bool `[samples, C]`, in the data set's order."""
        table = np.asarray(present, bool)
        if table.ndim != 2 or table.shape[1] != len(names):
            raise ArgumentError(f"truth: got a table {table.shape}, expected (samples, {len(names)})")

        def rows(samples: np.ndarray) -> np.ndarray:
            if len(samples) and samples.max() >= len(table):
                raise ArgumentError(
                    f"truth: got sample {samples.max()}, expected below {len(table)}; the store's data has "
                    "more samples than the table"
                )
            return table[samples]

        return cls(tuple(names), rows)

    def vectors(self, samples: np.ndarray) -> np.ndarray:
        """float64 `[n, F]` of norm 1 (or 0, where a sample is as the mean): see `embed`."""
        made = self.embed(samples) if self.embed else self.present(samples)
        out = np.asarray(made, np.float64)
        if self.embed is None:
            out = out - out.mean(0)
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(length > 0, length, 1)


def cell_labels(truth: Truth, store: Store, space: str, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Labels of rows that are grid cells: which rows are (bool `[N]`), and theirs, bool `[cells, K]`.

    Rows of one sample stand together, as in a store. A row that is no cell (a class token) has no labels.
    """
    place = torch.stack([rows.sample, rows.image, rows.y, rows.x], 1).numpy().astype(np.int64)
    grid = (place[:, 2] >= 0) & (place[:, 3] >= 0)
    out = np.zeros((int(grid.sum()), len(truth.cell_names)), bool)
    if truth.labels is None or not grid.any():
        return np.zeros(len(rows), bool), out[:0]
    place = place[grid]
    samples, which = np.unique(place[:, 0], return_inverse=True)
    masks = truth.labels(samples)
    for number, sample in enumerate(samples):
        own = np.flatnonzero(which == number)
        for image in np.unique(place[own, 1]):
            cells = own[place[own, 1] == image]
            tile = store.samples[int(sample)].tile_in(space, max(0, int(image)))
            share = mask_cells(tile, masks[number])
            out[cells] = share[:, place[cells, 2], place[cells, 3]].T >= COVERED
    return grid, out
