"""Concepts from Broden's folder (Network Dissection, Bau et al. 2017)."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.layers import once, without
from mmxai.concepts.types import Concepts, ImageLabels, numbered
from mmxai.errors import DataError
from mmxai.labels.keys import sample_files
from mmxai.labels.masks import read_mask

if TYPE_CHECKING:
    from mmxai.store.reader import Store

INDEX = "index.csv"
_FIXED = ("image", "split", "ih", "iw", "sh", "sw")


class BrodenConcepts(Concepts):
    """`index.csv` (a row a picture, a column a category), `label.csv`, `c_<category>.csv`, PNGs in `images`.

    A cell of a category's column lists, `;` between them, PNGs of `sh x sw` numbers (red + 256 * green,
    0 none), a layer each, and numbers of labels of the whole picture; an empty one: the category was not
    annotated there. A label that two categories have is a concept of each.
    """

    def __init__(self, folder: Path, store: Store):
        index = folder / INDEX
        columns, rows = _table(index)
        if missing := [c for c in _FIXED if c not in columns]:
            raise DataError(f"{index}: got columns {columns} without {missing}, expected Broden's index")
        known = [c for c in columns if c not in _FIXED]
        names = {c: _codes(folder / f"c_{c}.csv") for c in known}
        self.concepts, self.categories = numbered(
            [(n, c) for c in known for n in names[c].values()], str(index)
        )
        first = np.cumsum([0, *(len(names[c]) for c in known)])
        # Label number -> concept, a table a category: -2 where the category has no such label.
        self._concept: dict[str, np.ndarray] = {}
        for category, start in zip(known, first[:-1].tolist(), strict=True):
            table = np.full(max(names[category], default=0) + 1, -2, np.int32)
            table[0] = -1
            table[list(names[category])] = start + np.arange(len(names[category]))
            self._concept[category] = table
        if self.categories != tuple(known):
            raise DataError(f"{index}: got columns {known}, expected labels of each in c_<category>.csv")
        here = sample_files(store, (r["image"] for r in rows), str(index))
        self._rows = {here[r["image"]]: r for r in rows if r["image"] in here}
        self._folder, self._store = folder, store
        self._digest = hashlib.sha256(index.read_bytes()).hexdigest()
        self.about = f"{folder.name}: Broden's layout, {len(self._rows):,} pictures"

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "broden", "sha256": self._digest}

    def labels(self, sample: int) -> ImageLabels | None:
        row = self._rows.get(sample)
        if row is None:
            return None
        where = f"{self._folder / INDEX}: {row['image']}"
        height, width, h, w = (_number(row[c], where) for c in ("ih", "iw", "sh", "sw"))
        size = self._store.samples[sample].size
        if size is not None and tuple(size) != (width, height):
            raise DataError(f"{where}: is {width}x{height}, but {size[0]}x{size[1]} in the store")
        layers, whole, annotated = [], [], []
        for category in self.categories:
            cell = [part.strip() for part in row[category].split(";") if part.strip()]
            annotated.append(bool(cell))
            for part in cell:
                if part.isdecimal():
                    whole.append(self._of(category, np.array([int(part)]), where))
                else:
                    layers.append(self._map(category, part, (h, w)))
        maps = once(np.stack(layers)) if layers else np.full((0, h, w), -1, np.int32)
        everywhere = np.unique(np.concatenate(whole)) if whole else np.zeros(0, np.int64)
        everywhere = everywhere[everywhere >= 0].astype(np.int64)
        return ImageLabels(without(maps, everywhere), everywhere, np.array(annotated))

    def _map(self, category: str, name: str, shape: tuple[int, int]) -> np.ndarray:
        path = self._folder / "images" / name
        numbers = read_mask(path)
        if numbers.shape != shape:
            raise DataError(
                f"{path}: got {numbers.shape} pixels (h, w), expected {shape}, sh and sw of {INDEX}"
            )
        return self._of(category, numbers, str(path))

    def _of(self, category: str, numbers: np.ndarray, where: str) -> np.ndarray:
        table = self._concept[category]
        found = table[np.where(numbers < len(table), numbers, 0)]
        found[numbers >= len(table)] = -2
        if (found == -2).any():
            lost = np.unique(numbers[found == -2])[:5].tolist()
            raise DataError(f"{where}: got label numbers {lost}, which c_{category}.csv does not list")
        return found


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected Broden's tables")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if not rows or any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path}: got no rows, or rows of another number of cells than the header")
    return list(reader.fieldnames or []), rows


def _codes(path: Path) -> dict[int, str]:
    """Label number -> name, by number."""
    columns, rows = _table(path)
    if not {"number", "name"} <= set(columns):
        raise DataError(f"{path}: got columns {columns}, expected number and name among them")
    return dict(sorted((_number(row["number"], str(path)), row["name"]) for row in rows))


def _number(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise DataError(f"{where}: got {text!r}, expected a whole number")
    return int(text)
