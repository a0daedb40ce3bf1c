"""From the pixels of the original picture to the cells of a model's grid, and back.

A tile is `{"affine": [a, b, c, d, e, f], "grid": [h, w]}`: the point (x, y) of the original picture
(pixels, the corner of the first pixel at (0, 0), after EXIF orientation) lies at `gx = a*x + b*y + c`, `gy
= d*x + e*y + f`; cell (row i, column j) of the grid covers `j <= gx < j + 1`, `i <= gy < i + 1`. Cells may
reach beyond the picture (padding) and the picture beyond the grid (crop).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmxai.errors import ArgumentError

Tile = Mapping[str, Any]


def apply(affine: Sequence[float], points: np.ndarray) -> np.ndarray:
    """Points `[..., 2]` (x, y) -> `[..., 2]` (gx, gy), float64."""
    a, b, c, d, e, f = affine
    points = np.asarray(points, dtype=np.float64)
    x, y = points[..., 0], points[..., 1]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)


def invert(affine: Sequence[float]) -> list[float]:
    """The affine map from grid cells back to original pixels."""
    a, b, c, d, e, f = affine
    det = a * e - b * d
    if det == 0:
        raise ArgumentError(f"affine {list(affine)}: got a singular map, expected an invertible one")
    return [e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det]


def on_grid(tile: Tile, grid: Sequence[int]) -> dict[str, Any]:
    """The same tile over another grid of the same input (a CNN map, merged patches)."""
    sy, sx = grid[0] / tile["grid"][0], grid[1] / tile["grid"][1]
    a, b, c, d, e, f = tile["affine"]
    return {"affine": [a * sx, b * sx, c * sx, d * sy, e * sy, f * sy], "grid": list(grid)}


def cell_box(tile: Tile, y: int, x: int) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1) that cell (y, x) covers in original pixels."""
    (x0, y0), (x1, y1) = apply(invert(tile["affine"]), np.array([[x, y], [x + 1, y + 1]]))
    return float(x0), float(y0), float(x1), float(y1)


def box_cells(tile: Tile, box: Sequence[float], *, eps: float = 1e-9) -> list[tuple[int, int]]:
    """Cells (y, x) that share area with the box (x0, y0, x1, y1) of original pixels, in row order.

    `eps` (cells) keeps rounding from adding a cell that the box only touches.
    """
    corners = apply(tile["affine"], np.array([box[:2], box[2:]]))
    (gx0, gy0), (gx1, gy1) = corners.min(axis=0) + eps, corners.max(axis=0) - eps
    h, w = tile["grid"]
    rows = range(max(0, math.floor(gy0)), min(h, math.ceil(gy1)))
    cols = range(max(0, math.floor(gx0)), min(w, math.ceil(gx1)))
    return [(y, x) for y in rows for x in cols]


def mask_cells(tile: Tile, mask: np.ndarray) -> np.ndarray:
    """Share of every cell that a mask covers, in [0, 1]: float64 `[..., h, w]` of masks `[..., H, W]` over
    original pixels.

    Exact area for axis-aligned maps (b = d = 0), which all of today's image pipelines make.
    """
    a, b, c, d, e, f = tile["affine"]
    if b or d:
        raise ArgumentError(f"mask_cells: got a rotated map {tile['affine']}, expected b = d = 0")
    h, w = tile["grid"]
    height, width = mask.shape[-2:]
    return _overlap(h, height, e, f) @ np.asarray(mask, dtype=np.float64) @ _overlap(w, width, a, c).T


def _overlap(cells: int, pixels: int, scale: float, offset: float) -> np.ndarray:
    """Length that pixel j, mapped to the grid, shares with cell i: `[cells, pixels]`."""
    edges = scale * np.arange(pixels + 1) + offset
    start, stop = np.arange(cells)[:, None], np.arange(1, cells + 1)[:, None]
    return np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)


_ON_EDGE = 1e-9
"""A point this near a cell's edge (cells) lies on it, and what lies on an edge is in the cell after it."""


def pixel_cells(tile: Tile, size: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """In which row and column of the grid the centre of each pixel of a map lies: int32 `[h]`, `[w]`.

    The map, `shape` (h, w), covers the whole picture, `size` (W, H) original pixels. -1: outside the grid,
    where the model saw nothing (cropped away).
    """
    (gy, gx), (rows, columns) = _centres(tile, size, shape), tile["grid"]
    return _cell(gy, rows), _cell(gx, columns)


def pixel_positions(tile: Tile, size: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Where between the grid's cell centres the centre of each pixel of a map lies: float64 `[h]`, `[w]`.

    0 is the first cell's centre and n - 1 the last's, beyond which positions are clamped; interpolation at
    them is `F.interpolate(mode="bilinear", align_corners=False)` where the map covers the grid exactly.
    -1: outside the grid, as in `pixel_cells`.
    """
    made = []
    for g, cells in zip(_centres(tile, size, shape), tile["grid"], strict=True):
        made.append(np.where(_cell(g, cells) < 0, -1.0, np.clip(g - 0.5, 0.0, cells - 1.0)))
    return made[0], made[1]


def _centres(tile: Tile, size: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = tile["affine"]
    if b or d:
        raise ArgumentError(f"map pixels: got a rotated map {tile['affine']}, expected b = d = 0")
    (width, height), (h, w) = size, shape
    if min(width, height, h, w) < 1:
        raise ArgumentError(
            f"map pixels: got a map {tuple(shape)} of a picture {tuple(size)}, expected positive sizes"
        )
    return e * ((np.arange(h) + 0.5) * height / h) + f, a * ((np.arange(w) + 0.5) * width / w) + c


def _cell(g: np.ndarray, cells: int) -> np.ndarray:
    found = np.floor(g + _ON_EDGE)
    return np.where((found >= 0) & (found < cells), found, -1).astype(np.int32)
