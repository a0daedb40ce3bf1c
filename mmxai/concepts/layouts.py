"""How data sets write label maps as PNGs: which number a pixel is, and what the numbers are called."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmxai.errors import DataError
from mmxai.labels.masks import Names, names_in

_VOID = 255
_UP = 3  # folders above that of the maps in which a table of names may lie


@dataclass(frozen=True)
class Layout:
    """`names(folder, files)`: its labels. `shift`: a label's number less its pixels'. `void`: 255 is none.
    `grey`: never in colours."""

    names: Callable[[Path, Iterable[Path]], Names]
    shift: int = 0
    void: bool = False
    grey: bool = False

    def number(self, pixels: np.ndarray) -> np.ndarray:
        """Numbers of labels from 1 on, 0 none, of what `labels.masks.read_mask` read."""
        shifted = pixels + self.shift
        return np.where(pixels == _VOID, 0, shifted) if self.void else shifted


VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_BORDER = (224, 224, 192)


def voc_colour(number: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a label: its bits, three at a time, from the highest bit of red, green, blue."""
    rgb = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            rgb[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return rgb[0], rgb[1], rgb[2]


def _voc(folder: Path, files: Iterable[Path]) -> Names:
    named = {k: (name, "object") for k, name in enumerate(VOC, 1)}
    return Names(named, {voc_colour(k): k for k in named} | {_BORDER: 0})


def _ade20k(folder: Path, files: Iterable[Path]) -> Names:
    """`objectInfo150.txt` or `.csv`: columns Idx, Stuff and Name; a label is called by its first synonym."""
    path = _near(folder, "objectInfo150.txt", "objectInfo150.csv")
    with open(path, newline="", encoding="utf-8-sig") as file:
        text = file.read()
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in text else ","))
    try:
        named = {int(r["Idx"]): (_first(r["Name"]), "stuff" if int(r["Stuff"]) else "object") for r in rows}
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: {error!r}, expected columns Idx, Stuff and Name") from error
    return Names(named)


def _first(name: str) -> str:
    return name.replace(";", ",").split(",")[0].strip()


def _cocostuff(folder: Path, files: Iterable[Path]) -> Names:
    """`labels.txt`: lines of `number: name`, things up to 91, stuff above, 0 unlabelled."""
    path = _near(folder, "labels.txt")
    named = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, _, name = line.partition(":")
        if not number.strip().isdecimal() or not name.strip():
            raise DataError(f"{path}: got a line {line!r}, expected number: name")
        named[int(number)] = (name.strip(), "thing" if int(number) <= 91 else "stuff")
    return Names({k: v for k, v in sorted(named.items()) if k})


def _near(folder: Path, *names: str) -> Path:
    folders = [folder, *folder.resolve().parents[:_UP]]
    for path in (place / name for place in folders for name in names):
        if path.is_file():
            return path
    raise DataError(
        f"{folder}: no {' or '.join(names)} there or in a folder above it, expected the names of labels"
    )


LAYOUTS = {
    "masks": Layout(names_in),
    "voc": Layout(_voc, void=True),
    "ade20k": Layout(_ade20k, grey=True),
    "cocostuff": Layout(_cocostuff, shift=1, void=True, grey=True),
}
"""`masks`: numbers or colours, named by names.csv. `voc`: Pascal's SegmentationClass, by number or colour,
borders void. `ade20k`: its scene parsing annotations. `cocostuff`: stuffthingmaps, label k as k - 1."""
