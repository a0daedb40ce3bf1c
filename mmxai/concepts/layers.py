"""Masks that may overlap, as layers of a map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def stacked(masks: Iterable[tuple[int, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """int32 `[M, h, w]` of (concept, bool `[h, w]`) pairs; M: the most concepts that any pixel is in.

    Masks of one concept become one. A pixel's concepts take its layers from the first on, so a concept may
    lie in several layers, at each pixel in one.
    """
    union: dict[int, np.ndarray] = {}
    for concept, mask in masks:
        union[concept] = union[concept] | mask if concept in union else mask
    depth = np.zeros(shape, np.intp)
    for mask in union.values():
        depth += mask
    out = np.full((int(depth.max(initial=0)), *shape), -1, np.int32)
    depth[:] = 0
    for concept, mask in union.items():
        at = np.nonzero(mask)
        out[(depth[at], *at)] = concept
        depth[at] += 1
    return out


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
