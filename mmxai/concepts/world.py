"""Concepts of the shapes world: shape, colour and fill of what is at a pixel, or the background there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.types import Concepts, ImageLabels, Instance, numbered
from mmxai.shapes.labels import CATEGORIES

if TYPE_CHECKING:
    from mmxai.shapes import ShapesWorld

_BLOCK = 64  # pictures painted at once
_KEPT = 4


class WorldConcepts(Concepts):
    """A layer a category; every category of every picture is known. Instances are objects, by their shape."""

    licence = "none needed: made by mmxai"

    def __init__(self, world: ShapesWorld):
        self._world = world
        names = [(name, category) for category, names in CATEGORIES.items() for name in names]
        self.concepts, self.categories = numbered(names, repr(world))
        self.about = f"pixels of {world!r}"
        self._first = np.cumsum([0, *(len(names) for names in CATEGORIES.values())])
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = Lock()

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "shapes", "world": self._world.identity}

    def labels(self, sample: int) -> ImageLabels | None:
        if not 0 <= sample < len(self._world):
            return None
        maps, _ = self._block(sample // _BLOCK)
        return ImageLabels(maps[sample % _BLOCK], np.zeros(0, np.int64), np.ones(len(self.categories), bool))

    def instances(self, sample: int) -> Iterator[Instance]:
        if not 0 <= sample < len(self._world):
            return
        maps, owners = (made[sample % _BLOCK] for made in self._block(sample // _BLOCK))
        shapes = maps[self.categories.index("shape")]
        for owner in np.unique(owners[owners > 0]):
            mask = owners == owner
            yield Instance(int(shapes[mask][0]), mask)

    def picture_licence(self, sample: int) -> str | None:
        return self.licence

    def _block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Maps int32 `[n, M, h, w]` and owners uint8 `[n, h, w]` of a run of pictures."""
        with self._lock:
            if number not in self._blocks:
                stop = min((number + 1) * _BLOCK, len(self._world))
                batch = self._world.batch(range(number * _BLOCK, stop), texts=0)
                maps = np.stack(
                    [
                        batch.labels[name].astype(np.int32) + np.int32(first - 1)
                        for name, first in zip(CATEGORIES, self._first, strict=False)
                    ],
                    axis=1,
                )
                none = np.stack([batch.labels[name] == 0 for name in CATEGORIES], axis=1)
                self._blocks[number] = np.where(none, np.int32(-1), maps), batch.owners
                if len(self._blocks) > _KEPT:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return self._blocks[number]
