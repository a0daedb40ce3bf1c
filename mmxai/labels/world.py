"""Labels of the shapes world: all that is known of its pictures and their patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.labels.labels import Labels, Task
from mmxai.models.geometry import mask_cells
from mmxai.shapes.labels import CATEGORIES
from mmxai.shapes.scene import ATTRIBUTES, BACKGROUNDS, CATEGORY_COLUMN, KIND, MAX_OBJECTS, TONE, TONES

if TYPE_CHECKING:
    from mmxai.shapes import ShapesWorld
    from mmxai.store.samples import StoredSample

_BLOCK = 256  # pictures painted at once
_COUNTS = ("one", "two", "three")


class WorldLabels(Labels):
    """Of a sample: shape, colour, size, fill and place of the only object (unknown where there are more),
    background, tone, how many objects; and `attributes`, every value that any object has. Of a cell: the
    shape, colour, fill and background that cover it."""

    def __init__(self, world: ShapesWorld):
        self._world = world
        single = [Task(name, "classes", "sample", values) for name, values in ATTRIBUTES.items()]
        every = tuple(value for values in ATTRIBUTES.values() for value in values)
        self.tasks = (
            *single,
            Task("background", "classes", "sample", BACKGROUNDS),
            Task("tone", "classes", "sample", TONES),
            Task("objects", "classes", "sample", _COUNTS[:MAX_OBJECTS]),
            Task("attributes", "multilabel", "sample", every),
            *(Task(name, "classes", "cell", values) for name, values in CATEGORIES.items()),
        )
        self.about = f"facts of {world!r}"

    def values(self, task: Task, samples: np.ndarray) -> np.ndarray:
        scenes = self._world.scenes(samples)
        if task.name in ATTRIBUTES:
            only = scenes.things[:, 0, CATEGORY_COLUMN[task.name]]
            return np.where(scenes.count == 1, only, -1).astype(np.int64)
        if task.name == "attributes":
            present = np.arange(MAX_OBJECTS) < scenes.count[:, None]
            return np.concatenate(
                [
                    ((scenes.things[..., CATEGORY_COLUMN[name], None] == np.arange(len(values)))
                     & present[..., None]).any(1)
                    for name, values in ATTRIBUTES.items()
                ], 1,
            ).astype(np.int8)  # fmt: skip
        known = {
            "background": scenes.ground[:, KIND],
            "tone": scenes.ground[:, TONE],
            "objects": scenes.count - 1,
        }
        return known[task.name].astype(np.int64)

    def shares(
        self, places: Sequence[tuple[StoredSample, dict[str, Any]]]
    ) -> Iterator[dict[str, np.ndarray | None]]:
        waiting = iter(places)
        while block := list(islice(waiting, _BLOCK)):
            maps = self._world.batch(np.array([s.sample for s, _ in block]), texts=0).labels
            for i, (_, tile) in enumerate(block):
                yield {
                    name: mask_cells(tile, maps[name][i] == np.arange(1, len(values) + 1)[:, None, None])
                    for name, values in CATEGORIES.items()
                }
