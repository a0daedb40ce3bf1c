"""Labels of a picture that follow from its scene: a map per category, and concepts of the whole image."""

from __future__ import annotations

import numpy as np

from mmxai.shapes import scene as S

CATEGORIES: dict[str, tuple[str, ...]] = {
    "shape": S.SHAPES,
    "colour": S.COLOURS,
    "fill": S.FILLS,
    "background": tuple(f"{kind} background" for kind in S.BACKGROUNDS),
}
"""Category -> its labels; in a map, label number j is written j + 1 and 0 means none."""


def label_maps(scenes: S.Scenes, owners: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 `[N, H, W]` per category, from `owners` uint8 `[N, H, W]` (0 background, k + 1 object k)."""
    which = np.arange(len(scenes))[:, None, None]
    maps = {}
    for name in ("shape", "colour", "fill"):
        table = np.zeros((len(scenes), S.MAX_OBJECTS + 1), np.uint8)
        table[:, 1:] = scenes.things[..., S.CATEGORY_COLUMN[name]] + 1
        maps[name] = table[which, owners]
    ground = (scenes.ground[:, S.KIND] + 1).astype(np.uint8)
    maps["background"] = np.where(owners == 0, ground[:, None, None], np.uint8(0))
    return maps


def concept_names() -> tuple[str, ...]:
    """Names of the image-level concepts, in the order of `concepts`."""
    names = [value for values in S.ATTRIBUTES.values() for value in values]
    names += [f"{colour} {shape}" for colour in S.COLOURS for shape in S.SHAPES]
    names += [f"{fill} {shape}" for fill in S.FILLS for shape in S.SHAPES]
    names += [*CATEGORIES["background"], *(f"{tone} background" for tone in S.TONES)]
    return (*names, "one object", "two objects", "three objects")


def concepts(scenes: S.Scenes) -> np.ndarray:
    """Which concepts each picture has: bool `[N, len(concept_names())]`."""
    present = np.arange(S.MAX_OBJECTS) < scenes.count[:, None]
    columns = []

    def add(values: np.ndarray, number: int) -> None:
        hits = (values[..., None] == np.arange(number)) & present[..., None]
        columns.append(hits.any(axis=1))

    for name, values in S.ATTRIBUTES.items():
        add(scenes.things[..., S.CATEGORY_COLUMN[name]], len(values))
    add(scenes.things[..., S.COLOUR] * 8 + scenes.things[..., S.SHAPE], 64)
    add(scenes.things[..., S.FILL] * 8 + scenes.things[..., S.SHAPE], 32)
    columns.append(scenes.ground[:, S.KIND, None] == np.arange(len(S.BACKGROUNDS)))
    columns.append(scenes.ground[:, S.TONE, None] == np.arange(len(S.TONES)))
    columns.append(scenes.count[:, None] == np.arange(1, S.MAX_OBJECTS + 1))
    return np.concatenate(columns, axis=1)
