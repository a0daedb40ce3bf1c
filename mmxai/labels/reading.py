"""`read_labels`: labels of a store's samples or patches from a file or folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.errors import ArgumentError, DataError
from mmxai.labels.boxes import BOX, BoxLabels
from mmxai.labels.labels import Labels
from mmxai.labels.masks import MaskLabels
from mmxai.labels.table import TableLabels, read_csv
from mmxai.labels.world import WorldLabels

if TYPE_CHECKING:
    from mmxai.shapes import ShapesWorld
    from mmxai.store.reader import Store

WORLD = "world.json"
"""What `mmxai shapes` writes beside its pictures: which world they are."""


def read_labels(
    path: str | Path, store: Store, *, regression: Sequence[str] = (), multilabel: Sequence[str] = ()
) -> Labels:
    """Labels of `store` from

    - a CSV file `sample,label` (or a column a task), `sample` being a key of the store or a sample's number;
    - a CSV file `sample,x0,y0,x1,y1,label`, boxes in pixels of the original pictures, for patches;
    - a folder of masks, `<key or number>.png` (`masks.MaskLabels`), for patches;
    - a folder that `mmxai shapes` wrote: all that is known of that world.

    regression, multilabel: columns that hold numbers, or several labels a sample. DataError says what is
    wrong with a file.
    """
    path = Path(path)
    if path.is_dir():
        if regression or multilabel:
            raise ArgumentError(f"{path}: got regression or multilabel columns, expected none of a folder")
        if not (path / WORLD).is_file():
            return MaskLabels(path, store)
        return WorldLabels(read_world(path, store))
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder, expected labels")
    if set(read_csv(path)[0]) & set(BOX):
        if regression:
            raise ArgumentError(f"{path}: got regression={list(regression)}, expected none of boxes")
        return BoxLabels(path, store, multilabel)
    return TableLabels(path, store, regression, multilabel)


def read_world(folder: Path, store: Store) -> ShapesWorld:
    """The world that `mmxai shapes` wrote there. DataError unless the store's pictures are its own."""
    from mmxai.shapes import ShapesWorld

    path = folder / WORLD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        world = ShapesWorld(found["n"], seed=found["seed"], size=found["size"], split=found["split"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error!r}, expected the file that `mmxai shapes` writes") from error
    if world.identity != found:
        raise DataError(f"{path}: got the world {found}, expected {world.identity}; write its pictures again")
    _same_pictures(world, store, folder)
    return world


def _same_pictures(world: ShapesWorld, store: Store, path: Path) -> None:
    """DataError unless the store's sample i is the world's picture i."""
    for sample in store.samples:
        if sample.sample >= len(world) or Path(sample.key).stem != f"{sample.sample:07d}":
            raise DataError(
                f"{path}: got sample {sample.sample} called {sample.key!r} in {store.path}, expected picture "
                f"{sample.sample} of the world; harvest the folder `images` in it, whole"
            )
