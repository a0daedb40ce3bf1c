"""Labels of patches from a folder of masks: a PNG a sample, whose pixels hold numbers of labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

    Palette and grey pictures (8 or 16 bits) hold the number itself, RGB ones red + 256 * green (Broden's), or
    the colours that `names.csv` lists (number,name,red,green,blue). That file in the folder names the labels;
    without it they are their numbers.
    """

    def __init__(self, folder: Path, store: Store):
        files = {path.stem: path for path in sorted(folder.glob("*.png"))}
        numbers = sample_numbers(store, files, str(folder), stems=True)
        self._files = {number: files[name] for name, number in numbers.items()}
        self._names = names_in(folder, self._files.values())
        named = self._names.named
        self._numbers = list(named)
        self.tasks = (Task("mask", "classes", "cell", tuple(name for name, _ in named.values())),)
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
        mask = read_mask(path, self._names.colours)
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


@dataclass(frozen=True)
class Names:
    """What numbers of labels mean: number -> (name, category), ascending; colour (r, g, b) -> number, of
    pictures that are painted instead of numbered."""

    named: dict[int, tuple[str, str]]
    colours: dict[tuple[int, int, int], int] = field(default_factory=dict)


def read_mask(
    path: Path, colours: Mapping[tuple[int, int, int], int] | None = None, *, grey: bool = False
) -> np.ndarray:
    """Label numbers, int64 `[H, W]`. With `colours` RGB pixels are those; black is 0 where not among them.
    grey: RGB is an error."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: {error}, expected a PNG of label numbers") from error
    if pixels.ndim == 3 and pixels.shape[2] >= 3 and not grey:
        if colours:
            return _of_colours(path, pixels[..., :3], {(0, 0, 0): 0, **colours})
        return pixels[..., 0].astype(np.int64) + 256 * pixels[..., 1].astype(np.int64)
    if pixels.ndim != 2:
        raise DataError(
            f"{path}: got pixels {pixels.shape}, expected one number a pixel{'' if grey else ', or RGB'}"
        )
    return pixels.astype(np.int64)


def _of_colours(path: Path, pixels: np.ndarray, colours: Mapping[tuple[int, int, int], int]) -> np.ndarray:
    place = np.array([65536, 256, 1])
    known = {int(np.dot(colour, place)): number for colour, number in colours.items()}
    found, at = np.unique(pixels.astype(np.int64) @ place, return_inverse=True)
    if lost := [c for c in found.tolist() if c not in known]:
        shown = [(c >> 16, c >> 8 & 255, c & 255) for c in lost[:5]]
        raise DataError(f"{path}: got colours {shown}, which the palette does not have")
    numbers: np.ndarray = np.array([known[c] for c in found.tolist()])[at.reshape(pixels.shape[:2])]
    return numbers


def names_in(folder: Path, files: Iterable[Path]) -> Names:
    """Of `names.csv` there; without it the numbers that the files hold are the names."""
    if (folder / NAMES).exists():
        names = read_names(folder / NAMES)
    else:
        used = set().union(*(np.unique(read_mask(path)).tolist() for path in files)) - {0}
        names = Names({number: (str(number), "mask") for number in sorted(used)})
    if not names.named:
        raise DataError(f"{folder}: got masks of nothing but 0, expected numbers of labels from 1 on")
    return names


def read_names(path: Path) -> Names:
    """Lines of `number,name`, or columns by a header: number, name, category, red, green, blue; category
    "mask" where none is given."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    header = ["number", "name"]
    if rows and rows[0][0] == "number":
        header, rows = rows[0], rows[1:]
    if "name" not in header or not all(len(row) == len(header) for row in rows):
        raise DataError(
            f"{path}: got columns {header} or other numbers of cells, expected lines of number,name"
        )
    lines = [dict(zip(header, row, strict=True)) for row in rows]
    try:
        named = {int(x["number"]): (x["name"], x.get("category") or "mask") for x in lines}
        painted = {"red", "green", "blue"} <= set(header)
        colours = {
            (int(x["red"]), int(x["green"]), int(x["blue"])): int(x["number"]) for x in lines if painted
        }
    except ValueError as error:
        raise DataError(f"{path}: {error}, expected lines of number,name") from error
    if not len(lines) == len(named) == len(set(named.values())):
        # Two categories may have one name.
        named_as = [(x["name"], x.get("category") or "") for x in lines]
        whole = [repr(f"{category}/{name}" if category else name) for name, category in named_as]
        columns = [str(int(x["number"])) for x in lines], whole
        twice = next(one for column in columns for one in column if column.count(one) > 1)
        raise DataError(f"{path}: got {twice} twice, expected numbers and names that tell labels apart")
    if min(named, default=1) < 1:
        raise DataError(f"{path}: got label numbers {sorted(named)[:3]}, expected numbers from 1 on")
    return Names(dict(sorted(named.items())), colours)
