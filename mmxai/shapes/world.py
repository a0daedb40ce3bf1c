"""The shapes world: pictures and all that is known of them, each a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image

from mmxai.errors import ArgumentError
from mmxai.shapes.captions import Caption, captions
from mmxai.shapes.labels import CATEGORIES, concept_names, concepts, label_maps
from mmxai.shapes.questions import Question, questions
from mmxai.shapes.render import measure, paint
from mmxai.shapes.rng import key_of
from mmxai.shapes.scene import Scene, Scenes, describe, draw_scenes
from mmxai.shapes.twins import Change, Twin, changed

VERSION = 1
"""Goes up whenever a picture or caption of any (seed, i) changes."""

SPLITS = (None, "train", "val", "test", "compositional")
_STREAM = {split: number for number, split in enumerate(SPLITS)}
_CAPTIONS, _QUESTIONS = 11, 12


class ShapesWorld(Sequence["Item"]):
    """`n` pictures of `size` x `size` pixels; `open_data` and `harvest` take it as it is.

    `split`: None draws from everything there is. "train", "val" and "test" are streams of their own in
    which no object has a pair of `scene.HELD_OUT`; in "compositional" every picture has one that does.
    """

    def __init__(self, n: int, seed: int = 0, size: int = 64, split: str | None = None):
        if split not in SPLITS:
            raise ArgumentError(f"shapes world: got split {split!r}, expected one of {SPLITS}")
        if n < 0 or not 8 <= size <= 4096:
            raise ArgumentError(f"shapes world: got n={n}, size={size}, expected n >= 0, size 8 to 4096")
        self.n, self.seed, self.size, self.split = n, seed, size, split
        self._key = key_of(seed, _STREAM[split])

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the pictures are, as JSON."""
        return {
            "world": "shapes",
            "version": VERSION,
            "n": self.n,
            "seed": self.seed,
            "size": self.size,
            "split": self.split,
        }

    @property
    def concept_names(self) -> tuple[str, ...]:
        return concept_names()

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """Category -> its labels: what the numbers of `WorldBatch.labels` mean."""
        return dict(CATEGORIES)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(self.n)[index]]
        i = range(self.n)[index]
        return Item(self, i, self.scenes([i]))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, self.n, 64):
            indices = range(start, min(start + 64, self.n))
            scenes = self.scenes(indices)
            for k, i in enumerate(indices):
                yield Item(self, i, scenes.take(k))

    def __repr__(self) -> str:
        return f"ShapesWorld({self.n:,} pictures, seed {self.seed}, {self.size} px, split {self.split})"

    def scenes(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The scenes of some indices as arrays, unpainted."""
        wanted = np.asarray(indices, np.int64)
        if wanted.ndim != 1 or (wanted.size and (wanted.min() < 0 or wanted.max() >= self.n)):
            raise ArgumentError(f"shapes world: got indices {wanted}, expected a list within range({self.n})")
        return draw_scenes(self._key, wanted, self.split)

    def batch(self, indices: Sequence[int] | np.ndarray, *, texts: int = 1, draw: int = 0) -> WorldBatch:
        """Many at once, several times faster than one by one.

        `texts`: how many of the six kinds of captions to write for each (0: none). `draw`: other
        wordings and other partial captions for the same pictures, one set a number.
        """
        indices = np.asarray(indices, np.int64)
        scenes = self.scenes(indices)
        images, owners = paint(scenes, self.size)
        graphs = describe(scenes, *measure(scenes))
        written = []
        if texts:
            key = self.caption_key(draw)
            written = [captions(g, key, i, most=texts) for g, i in zip(graphs, indices.tolist(), strict=True)]
        return WorldBatch(indices, scenes, images, owners, graphs, written)

    def twin(self, index: int, kind: str, object: int | None = None) -> Twin:
        """Picture `index` with exactly one thing changed.

        `kind`: "shape", "colour", "size", "fill" (that attribute of one object), "move" (to another
        place) or "remove". `object`: which, as numbered in the scene; drawn if not given. The new value
        is drawn too: pure functions of (seed, index, kind, object).
        """
        item = self[index]
        scenes, change = changed(item.scenes, kind, object, key_of(self._key, item.index))
        return Twin(item, Item(self, item.index, scenes, twin=change), change)

    def caption_key(self, draw: int = 0) -> int:
        """Key of one set of wordings."""
        return key_of(self._key, _CAPTIONS, draw)

    def question_key(self) -> int:
        return key_of(self._key, _QUESTIONS)


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """N pictures: images uint8 `[N, H, W, 3]`, owners uint8 `[N, H, W]` (0 background, k + 1 object k)."""

    indices: np.ndarray
    scenes: Scenes
    images: np.ndarray
    owners: np.ndarray
    graphs: list[Scene]
    captions: list[list[Caption]]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Category -> uint8 `[N, H, W]`; see `labels.CATEGORIES`."""
        return label_maps(self.scenes, self.owners)

    @property
    def concepts(self) -> np.ndarray:
        """bool `[N, C]`; see `labels.concept_names`."""
        return concepts(self.scenes)


class Item(Mapping[str, Any]):
    """One picture and everything known about it, each part made when first asked for.

    As a mapping it is a data set's sample: key, image (PIL), text (a full caption), objects, background,
    tone; so the world itself can be given wherever mmxai takes data.
    """

    def __init__(self, world: ShapesWorld, index: int, scenes: Scenes, twin: Change | None = None):
        self.world, self.index, self.scenes, self.twin_of = world, index, scenes, twin

    @property
    def key(self) -> str:
        """A name for the picture, unique among worlds of one version and size."""
        name = f"shapes/{self.world.split or 'all'}/{self.world.seed}/{self.index:07d}"
        return f"{name}/{self.twin_of.slug}" if self.twin_of else name

    @cached_property
    def _painted(self) -> tuple[np.ndarray, np.ndarray]:
        images, owners = paint(self.scenes, self.world.size)
        return images[0], owners[0]

    @property
    def image(self) -> np.ndarray:
        """uint8 `[H, W, 3]`."""
        return self._painted[0]

    @property
    def pil(self) -> PIL.Image.Image:
        """The picture as a PIL image."""
        return PIL.Image.fromarray(self.image)

    @property
    def owners(self) -> np.ndarray:
        """uint8 `[H, W]`: 0 background, k + 1 object k."""
        return self._painted[1]

    @cached_property
    def scene(self) -> Scene:
        """The scene graph."""
        return describe(self.scenes, *measure(self.scenes))[0]

    @property
    def caption(self) -> str:
        """A full caption."""
        return captions(self.scene, self.world.caption_key(), self.index, most=1)[0].text

    @cached_property
    def captions(self) -> list[Caption]:
        """Full, full in other words, relation, partial, count, background; as many as apply."""
        return captions(self.scene, self.world.caption_key(), self.index)

    @cached_property
    def questions(self) -> list[Question]:
        return questions(self.scene, self.world.question_key(), self.index)

    @property
    def masks(self) -> np.ndarray:
        """Visible pixels of each object: bool `[objects, H, W]`."""
        return self.owners[None] == np.arange(1, len(self.scene.objects) + 1, dtype=np.uint8)[:, None, None]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Category -> uint8 `[H, W]`; see `labels.CATEGORIES`."""
        return {name: maps[0] for name, maps in label_maps(self.scenes, self.owners[None]).items()}

    @property
    def concepts(self) -> frozenset[str]:
        """The concepts that the picture as a whole has."""
        names = concept_names()
        return frozenset(names[k] for k in np.flatnonzero(concepts(self.scenes)[0]))

    def __getitem__(self, column: str) -> Any:
        match column:
            case "key":
                return self.key
            case "image":
                return self.pil
            case "text":
                return self.caption
            case "objects":
                names = ("shape", "colour", "size", "fill", "place", "box", "visible")
                return [{name: getattr(thing, name) for name in names} for thing in self.scene.objects]
            case "background" | "tone":
                return getattr(self.scene, column)
        raise KeyError(column)

    def __iter__(self) -> Iterator[str]:
        return iter(("key", "image", "text", "objects", "background", "tone"))

    def __len__(self) -> int:
        return 6

    def __repr__(self) -> str:
        return f"Item({self.key}: {self.caption})"

    def _repr_png_(self) -> bytes | None:
        return self.pil.resize((256, 256), PIL.Image.Resampling.NEAREST)._repr_png_()
