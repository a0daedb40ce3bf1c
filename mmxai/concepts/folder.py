"""Concepts from a folder of label maps, a PNG a picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.layouts import LAYOUTS
from mmxai.concepts.types import Concepts, ImageLabels, numbered
from mmxai.errors import DataError
from mmxai.labels.keys import sample_files
from mmxai.labels.masks import NAMES, read_mask

if TYPE_CHECKING:
    from mmxai.store.reader import Store


class FolderConcepts(Concepts):
    """Maps over the whole picture, found by file name (also in folders of the folder) or sample number.

    A map has the picture's pixels, or is the picture scaled. Its numbers are read by `layouts.LAYOUTS`. In
    a picture that has a map every category was looked for.
    """

    def __init__(self, folder: Path, store: Store, layout: str = "masks"):
        self._layout, self._folder, self._store = LAYOUTS[layout], folder, store
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
        if not files:
            raise DataError(f"{folder}: got no PNGs, expected a label map a picture")
        found = sample_files(store, files, str(folder), numbers=True)
        self._files = {number: files[name] for name, number in found.items()}
        self._names = self._layout.names(folder, self._files.values())
        named = self._names.named
        self.concepts, self.categories = numbered(_by_category(list(named.values())), str(folder))
        place = {(c.name, c.category): c.number for c in self.concepts}
        self._concept = np.full(max(named) + 1, -2, np.int32)
        self._concept[0] = -1
        for number, pair in named.items():
            self._concept[number] = place[pair]
        self.about = f"{folder.name}: label maps of {len(self._files):,} pictures"

    @property
    def identity(self) -> dict[str, Any]:
        """Of the maps their names and sizes: reading all of them would take as long as the run."""
        listing = "\n".join(
            f"{n} {path.name} {path.stat().st_size}" for n, path in sorted(self._files.items())
        )
        names = [[c.name, c.category] for c in self.concepts]
        return {"source": "folder", "files": hashlib.sha256(listing.encode()).hexdigest(), "names": names}

    def labels(self, sample: int) -> ImageLabels | None:
        path = self._files.get(sample)
        if path is None:
            return None
        numbers = self._layout.number(read_mask(path, self._names.colours, grey=self._layout.grey))
        covers(numbers.shape, self._store.samples[sample].size, path)
        beyond = numbers >= len(self._concept)
        found = self._concept[np.where(beyond, 0, numbers)]
        found[beyond] = -2
        if (found == -2).any():
            lost = np.unique(numbers[found == -2])[:5].tolist()
            raise DataError(f"{path}: got label numbers {lost}, which have no name; name them in {NAMES}")
        return ImageLabels(found[None], np.zeros(0, np.int64), np.ones(len(self.categories), bool))


def covers(shape: tuple[int, ...], size: tuple[int, int] | None, path: Path) -> None:
    """DataError unless a map (h, w) is a picture (W, H), perhaps scaled: its sides fit to a pixel."""
    if size is None:
        return
    (h, w), (width, height) = shape, size
    if abs(w * height - h * width) >= max(width, height):
        raise DataError(
            f"{path}: got a map of {w}x{h} pixels, expected {width}x{height}, those of the picture, or "
            "the same scaled"
        )


def _by_category(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    first = list(dict.fromkeys(category for _, category in pairs))
    return sorted(pairs, key=lambda pair: first.index(pair[1]))
