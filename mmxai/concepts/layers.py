"""Masks that may overlap, as layers of a map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Patch:
    """Part of a mask outside which it is empty: bool `[h', w']`, its corner at row `top`, column `left`."""

    mask: np.ndarray
    top: int = 0
    left: int = 0

    @property
    def box(self) -> tuple[slice, slice]:
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def whole(self, shape: tuple[int, int]) -> np.ndarray:
        """The mask, bool `[h, w]`."""
        out = np.zeros(shape, bool)
        out[self.box] = self.mask
        return out


def stacked(patches: Iterable[tuple[int, Patch]], shape: tuple[int, int]) -> np.ndarray:
    """int32 `[M, h, w]` of (concept, patch of its mask) pairs; M: the most concepts that any pixel is in.

    Masks of one concept become one. A pixel's concepts take its layers from the first on, so a concept may
    lie in several layers, at each pixel in one.
    """
    own: dict[int, list[Patch]] = {}
    for concept, patch in patches:
        if patch.mask.size:
            own.setdefault(concept, []).append(patch)
    depth = np.zeros(shape, np.uint8)
    layers: list[np.ndarray] = []
    for concept, several in own.items():
        patch = union(several)
        deep = depth[patch.box]
        if (deep == 255).any():  # nobody's pictures have that
            depth = depth.astype(np.int64)
            deep = depth[patch.box]
        for level in range(int(deep.max(where=patch.mask, initial=0)) + 1):
            if level == len(layers):
                layers.append(np.full(shape, -1, np.int32))
            layers[level][patch.box][patch.mask & (deep == level)] = concept
        deep += patch.mask
    return np.stack(layers) if layers else np.full((0, *shape), -1, np.int32)


def union(patches: list[Patch]) -> Patch:
    if len(patches) == 1:
        return patches[0]
    top, left = (min(getattr(p, side) for p in patches) for side in ("top", "left"))
    bottom, right = (max(p.box[axis].stop for p in patches) for axis in (0, 1))
    out = np.zeros((bottom - top, right - left), bool)
    for patch in patches:
        rows, columns = patch.box
        out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] |= patch.mask
    return Patch(out, top, left)


def once(maps: np.ndarray) -> np.ndarray:
    """The same layers with each concept at most once a pixel; only layers with anything in them."""
    for k in range(1, len(maps)):
        earlier = maps[:k]
        again = (earlier == maps[k]).any(0) & (maps[k] >= 0)
        if again.any():
            maps = maps.copy()
            maps[k][again] = -1
    used = (maps >= 0).any((1, 2))
    return maps if used.all() else maps[used]


def without(maps: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    """The same layers but for some concepts."""
    if not len(concepts) or not (away := np.isin(maps, concepts)).any():
        return maps
    return np.where(away, np.int32(-1), maps)
