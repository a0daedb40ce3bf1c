"""Labels of patches from boxes: CSV of `sample,x0,y0,x1,y1,label` in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import ArgumentError, DataError
from mmxai.labels.keys import sample_numbers
from mmxai.labels.labels import Labels, Task
from mmxai.labels.table import SAMPLE, read_csv

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.store.samples import StoredSample

BOX = ("x0", "y0", "x1", "y1")


class BoxLabels(Labels):
    """One task of cells, named as the label column. Of samples without a box in the file nothing is known; an
    empty label and box says that a sample has none."""

    def __init__(self, path: Path, store: Store, multilabel: Sequence[str]):
        columns, rows = read_csv(path)
        labels = [c for c in columns if c not in (SAMPLE, *BOX)]
        if missing := [c for c in BOX if c not in columns]:
            raise DataError(
                f"{path}: got columns {columns} without {missing}, expected sample,x0,y0,x1,y1,label"
            )
        if len(labels) != 1:
            raise DataError(f"{path}: got label columns {labels}, expected one beside sample and the box")
        name = labels[0]
        if wrong := set(multilabel) - {name}:
            raise DataError(f"{path}: got multilabel columns {sorted(wrong)}, expected {[name]}")
        numbers = sample_numbers(store, (r[SAMPLE] for r in rows), str(path))
        # Of samples in the store alone: a class without any patch would count in every mean over classes.
        names = tuple(sorted({r[name] for r in rows if r[name] and r[SAMPLE] in numbers}))
        if not names:
            raise DataError(
                f"{path}: got no labels in {name!r} of samples in {store.path}, expected one a box"
            )
        self._boxes: dict[int, list[tuple[int, np.ndarray]]] = {}
        for i, row in enumerate(rows, 2):
            if row[SAMPLE] in numbers:
                boxes = self._boxes.setdefault(numbers[row[SAMPLE]], [])
                if row[name] or any(row[c] for c in BOX):
                    boxes.append((names.index(_label(row, name, path, i)), _box(row, path, i)))
        self.tasks = (Task(name, "multilabel" if multilabel else "classes", "cell", names),)
        self.about = f"{path.name}: boxes in {len(self._boxes):,} samples"

    def boxes(self, sample: int) -> list[tuple[int, np.ndarray]] | None:
        """(index into the task's names, float64 `[4]` x0, y0, x1, y1); None where nothing is known."""
        return self._boxes.get(sample)

    def values(self, task: Task, samples: np.ndarray) -> np.ndarray:
        raise ArgumentError(
            f"labels: got boxes, which tell patches apart, expected a task of cells for {task.name}"
        )

    def shares(
        self, places: Sequence[tuple[StoredSample, dict[str, Any]]]
    ) -> Iterator[dict[str, np.ndarray | None]]:
        (task,) = self.tasks
        for sample, tile in places:
            boxes = self._boxes.get(sample.sample)
            yield {task.name: None if boxes is None else box_shares(tile, boxes, task.width)}


def box_shares(tile: dict[str, Any], boxes: list[tuple[int, np.ndarray]], labels: int) -> np.ndarray:
    """Share of every cell that the union of each label's boxes covers, exactly: float64 `[labels, h, w]`.

    boxes: (label, float64 `[4]` x0, y0, x1, y1 in original pixels).
    """
    a, b, c, d, e, f = tile["affine"]
    if b or d:
        raise ArgumentError(f"box_shares: got a rotated map {tile['affine']}, expected b = d = 0")
    height, width = tile["grid"]
    out = np.zeros((labels, height, width))
    for label in {k for k, _ in boxes}:
        own = np.array([box for k, box in boxes if k == label])
        xs, ys = np.sort(a * own[:, [0, 2]] + c, 1), np.sort(e * own[:, [1, 3]] + f, 1)
        # Between neighbouring edges of all the boxes a point is covered or not, whichever it is.
        across, down = np.unique(xs), np.unique(ys)
        inside_x = (xs[:, :1] <= across[:-1]) & (across[1:] <= xs[:, 1:])
        inside_y = (ys[:, :1] <= down[:-1]) & (down[1:] <= ys[:, 1:])
        covered = inside_y.T.astype(np.float32) @ inside_x.astype(np.float32) > 0
        out[label] = _lengths(down, height) @ covered @ _lengths(across, width).T
    return out


def _lengths(edges: np.ndarray, cells: int) -> np.ndarray:
    """Length that the stretch between edges j and j + 1 shares with cell i: `[cells, edges - 1]`."""
    start = np.arange(cells)[:, None]
    return np.clip(np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start), 0, None)


def _label(row: dict[str, str], name: str, path: Path, line: int) -> str:
    if not row[name]:
        raise DataError(f"{path}: line {line} has a box and no {name}, expected both or neither")
    return row[name]


def _box(row: dict[str, str], path: Path, line: int) -> np.ndarray:
    try:
        box = np.array([float(row[c]) for c in BOX])
    except ValueError:
        box = np.full(4, np.nan)
    if not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(
            f"{path}: line {line} has the box {[row[c] for c in BOX]}, expected numbers with x0 < x1, y0 < y1"
        )
    return box
