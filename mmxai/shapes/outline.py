"""Outlines of masks along pixel edges, as COCO's polygons."""

from __future__ import annotations

from collections import defaultdict

import numpy as np


def polygons(mask: np.ndarray) -> list[list[int]]:
    """Polygons `[x0, y0, x1, y1, ...]` that together cover the true pixels of bool `[H, W]` and no others.

    Corners lie on pixel corners, so rasterising by pixel centres gives back the mask. COCO's polygons have
    no holes: a mask that has one is cut through it.
    """
    found = [(loop, _area(loop)) for loop in _loops(mask)]
    holes = [loop for loop, area in found if area < 0]
    if not holes:
        return [[c for corner in loop for c in corner] for loop, _ in found]
    cut = max(x for x, _ in holes[0])
    left, right = mask.copy(), mask.copy()
    left[:, cut:], right[:, :cut] = False, False
    return polygons(left) + polygons(right)


def _loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed borders with the mask on their right hand, y down: outer ones clockwise, holes the other way."""
    padded = np.pad(mask, 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    edges: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for y, x in np.argwhere(inside != above).tolist():
        start, step = ((x, y), (1, 0)) if inside[y, x] else ((x + 1, y), (-1, 0))
        edges[start].append(step)
    for y, x in np.argwhere(inside != left).tolist():
        start, step = ((x, y + 1), (0, -1)) if inside[y, x] else ((x, y), (0, 1))
        edges[start].append(step)
    loops = []
    while edges:
        start = at = min(edges)  # the top of the leftmost border: a corner, and of one loop only
        loop: list[tuple[int, int]] = []
        before = (0, -1)
        while at != start or not loop:
            # Where two pixels touch by a corner, turning right keeps them in loops of their own.
            right = (-before[1], before[0])
            step = right if right in edges[at] else edges[at][0]
            edges[at].remove(step)
            if not edges[at]:
                del edges[at]
            if step != before:
                loop.append(at)
            at, before = (at[0] + step[0], at[1] + step[1]), step
        loops.append(loop)
    return loops


def _area(loop: list[tuple[int, int]]) -> float:
    """Positive for a loop that runs clockwise on the screen."""
    x, y = np.array(loop).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
