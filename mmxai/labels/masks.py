"""Labels of patches from a folder of masks: a PNG a sample, whose pixels hold numbers of labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmxai.errors import ArgumentError, DataError
from mmxai.labels.keys import sample_numbers
from mmxai.labels.labels import Labels, Task
from mmxai.models.geometry import mask_cells

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.store.samples import StoredSample

NAMES = "names.csv"


class MaskLabels(Labels):
    """`<key or number>.png` over the original picture, pixel by pixel: 0 nothing, else a label's number.

    Palette and grey pictures (8 or 16 bits) hold the number itself, RGB ones red + 256 * green (Broden's).
    `names.csv` (number,name) in the folder names the labels; without it they are their numbers.
    """

    def __init__(self, folder: Path, store: Store):
        files = {path.stem: path for path in sorted(folder.glob("*.png"))}
        numbers = sample_numbers(store, files, str(folder), stems=True)
        self._files = {number: files[name] for name, number in numbers.items()}
        named = _names(folder / NAMES)
        if named is None:
            used = set().union(*(np.unique(read_mask(path)).tolist() for path in self._files.values()))
            named = {number: str(number) for number in sorted(used - {0})}
        if not named:
            raise DataError(f"{folder}: got masks of nothing but 0, expected numbers of labels from 1 on")
        self._numbers = list(named)
        self.tasks = (Task("mask", "classes", "cell", tuple(named.values())),)
        self.about = f"{folder.name}: masks of {len(self._files):,} samples"

    def values(self, task: Task, samples: np.ndarray) -> np.ndarray:
        raise ArgumentError(
            f"labels: got masks, which tell patches apart, expected a task of cells for {task.name}"
        )

    def shares(
        self, places: Sequence[tuple[StoredSample, dict[str, Any]]]
    ) -> Iterator[dict[str, np.ndarray | None]]:
        (task,) = self.tasks
        for sample, tile in places:
            path = self._files.get(sample.sample)
            yield {task.name: None if path is None else self._shares(path, sample, tile)}

    def _shares(self, path: Path, sample: StoredSample, tile: dict[str, Any]) -> np.ndarray:
        mask = read_mask(path)
        if sample.size is not None and mask.shape != sample.size[::-1]:
            raise DataError(
                f"{path}: got a mask of {mask.shape[1]}x{mask.shape[0]} pixels, expected {sample.size[0]}x"
                f"{sample.size[1]}, those of the original picture"
            )
        here = np.unique(mask)
        if unnamed := sorted(set(here.tolist()) - {0, *self._numbers}):
            raise DataError(f"{path}: got label numbers {unnamed}, which {NAMES} does not name")
        out = np.zeros((len(self._numbers), *tile["grid"]))
        present = [k for k, number in enumerate(self._numbers) if number in here]
        if present:
            wanted = np.array([self._numbers[k] for k in present])
            out[present] = mask_cells(tile, mask == wanted[:, None, None])
        return out


def read_mask(path: Path) -> np.ndarray:
    """Label numbers, int64 `[H, W]`."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: {error}, expected a PNG of label numbers") from error
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        return pixels[..., 0].astype(np.int64) + 256 * pixels[..., 1].astype(np.int64)
    if pixels.ndim != 2:
        raise DataError(f"{path}: got pixels {pixels.shape}, expected one number a pixel, or RGB")
    return pixels.astype(np.int64)


def _names(path: Path) -> dict[int, str] | None:
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and rows[0][:1] == ["number"]:
        rows = rows[1:]
    try:
        lines = [(int(number), name.strip()) for number, name in rows]
    except ValueError as error:
        raise DataError(f"{path}: {error}, expected lines of number,name") from error
    named = dict(lines)
    if not len(lines) == len(named) == len(set(named.values())):
        twice = next(one for column in zip(*lines, strict=True) for one in column if column.count(one) > 1)
        raise DataError(f"{path}: got {twice!r} twice, expected numbers and names that tell labels apart")
    if min(named, default=1) < 1:
        raise DataError(f"{path}: got label numbers {sorted(named)[:3]}, expected numbers from 1 on")
    return dict(sorted(named.items()))
