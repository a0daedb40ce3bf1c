"""Concepts of the shapes world: shape, colour and fill of what is at a pixel, or the background there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.types import Concepts, ImageLabels, Instance, numbered
from mmxai.shapes.labels import CATEGORIES, label_maps
from mmxai.shapes.render import paint

if TYPE_CHECKING:
    from mmxai.shapes import ShapesWorld
    from mmxai.shapes.scene import Scenes

_BLOCK = 4096  # scenes drawn at once, 0.7 MB: drawing one takes as long as painting three
_KEPT = 64


class WorldConcepts(Concepts):
    """A layer a category; every category of every picture is known. Instances are objects, by their shape."""

    licence = "none needed: made by mmxai"

    def __init__(self, world: ShapesWorld):
        self._world = world
        names = [(name, category) for category, names in CATEGORIES.items() for name in names]
        self.concepts, self.categories = numbered(names, repr(world))
        self.about = f"pixels of {world!r}"
        first = np.cumsum([0, *(len(names) for names in CATEGORIES.values())])
        # Numbers in a category's map, 0 for none, to concepts.
        self._concept = [np.array([-1, *range(start, stop)], np.int32) for start, stop in pairwise(first)]
        self._scenes: OrderedDict[int, Scenes] = OrderedDict()
        self._lock = Lock()

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "shapes", "world": self._world.identity}

    def labels(self, sample: int) -> ImageLabels | None:
        if not 0 <= sample < len(self._world):
            return None
        maps, _ = self._painted(sample)
        return ImageLabels(maps, np.zeros(0, np.int64), np.ones(len(self.categories), bool))

    def instances(self, sample: int) -> Iterator[Instance]:
        if not 0 <= sample < len(self._world):
            return
        maps, owners = self._painted(sample)
        shapes = maps[self.categories.index("shape")]
        for owner in np.unique(owners[owners > 0]):
            mask = owners == owner
            yield Instance(int(shapes[mask][0]), mask)

    def picture_licence(self, sample: int) -> str | None:
        return self.licence

    def _painted(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Maps int32 `[M, h, w]` and owners uint8 `[h, w]`."""
        scene = self._block(sample // _BLOCK).take(sample % _BLOCK)
        _, owners = paint(scene, self._world.size)
        maps = label_maps(scene, owners)
        pairs = zip(CATEGORIES, self._concept, strict=True)
        return np.stack([concept[maps[name][0]] for name, concept in pairs]), owners[0]

    def _block(self, number: int) -> Scenes:
        with self._lock:
            if number not in self._scenes:
                stop = min((number + 1) * _BLOCK, len(self._world))
                self._scenes[number] = self._world.scenes(np.arange(number * _BLOCK, stop))
                if len(self._scenes) > _KEPT:
                    self._scenes.popitem(last=False)
            self._scenes.move_to_end(number)
            return self._scenes[number]
