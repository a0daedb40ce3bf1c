"""Concepts from CSV files: labels of whole pictures, and boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.layers import Patch, stacked
from mmxai.concepts.types import Concepts, ImageLabels, Instance, numbered
from mmxai.errors import DataError
from mmxai.labels.boxes import BoxLabels
from mmxai.labels.table import SAMPLE, TableLabels, read_csv

if TYPE_CHECKING:
    from mmxai.store.reader import Store

WHOLE = (112, 112)
"""Pixels (h, w) in which a label of a whole picture is counted: NetDissect's."""


class TableConcepts(Concepts):
    """`sample,label`, or a column a category; a picture may have several labels, `|` between or a row each.

    A label holds of every pixel. An empty cell: the category was not looked for in that picture.
    """

    def __init__(self, path: Path, store: Store):
        columns = [c for c in read_csv(path)[0] if c != SAMPLE]
        self._labels = TableLabels(path, store, (), columns)
        tasks = self._labels.tasks
        self.concepts, self.categories = numbered([(n, t.name) for t in tasks for n in t.names], str(path))
        self.about = f"{self._labels.about}, labels of whole pictures"
        self._path = path

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "table", "sha256": hashlib.sha256(self._path.read_bytes()).hexdigest()}

    def labels(self, sample: int) -> ImageLabels | None:
        one = np.array([sample])
        values = [self._labels.values(task, one)[0] for task in self._labels.tasks]
        annotated = np.array([v[0] >= 0 for v in values])
        if not annotated.any():
            return None
        whole = np.flatnonzero(np.concatenate(values) > 0)
        return ImageLabels(np.full((0, *WHOLE), -1, np.int32), whole, annotated)


class BoxConcepts(Concepts):
    """`sample,x0,y0,x1,y1,label`: a pixel has the labels of the boxes that its centre is in.

    Of a picture that the file does not name nothing is known; an empty label and box says that it has none.
    """

    def __init__(self, path: Path, store: Store):
        self._labels = BoxLabels(path, store, ())
        (task,) = self._labels.tasks
        self.concepts, self.categories = numbered([(name, task.name) for name in task.names], str(path))
        self.about, self._path, self._store = self._labels.about, path, store

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "boxes", "sha256": hashlib.sha256(self._path.read_bytes()).hexdigest()}

    def labels(self, sample: int) -> ImageLabels | None:
        if self._labels.boxes(sample) is None:
            return None
        maps = stacked(((i.concept, Patch(i.mask)) for i in self.instances(sample)), self._shape(sample))
        return ImageLabels(maps, np.zeros(0, np.int64), np.ones(1, bool))

    def instances(self, sample: int) -> Iterator[Instance]:
        height, width = self._shape(sample)
        for label, (x0, y0, x1, y1) in self._labels.boxes(sample) or ():
            x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
            yield Instance(label, (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))

    def _shape(self, sample: int) -> tuple[int, int]:
        size = self._store.samples[sample].size
        if size is None:
            raise DataError(f"{self._path}: sample {sample} has no size in the store, expected pictures")
        return size[1], size[0]
