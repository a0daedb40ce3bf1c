"""Outlines of masks as SVG paths in cells of a grid: short, exact, and drawn at any size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from mmxai.errors import ArgumentError

FINE = 10
"""Steps of a cell in which smooth outlines are told."""

_SAMPLES = 3
"""A cell's side in samples of a smooth outline, beside those on the grid's border. Odd, so that no cell's
centre, where the interpolation bends, lies between two of them: where an outline crosses a line of samples,
it is exact."""

_BEYOND = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (y, x) beyond a cell's top, right, bottom, left
_CORNER = ((0, 0), (0, 1), (1, 1), (1, 0))  # of a cell, at which the walk along that side begins

Edge = tuple[int, int, int]
"""A cell's side: the corner (y, x) where the walk along it begins, and the side, an index into `_BEYOND`."""


def cell_paths(masks: np.ndarray) -> list[str]:
    """The path round the cells of each mask, bool `[N, h, w]`: cell (y, x) covers x..x+1, y..y+1.

    Holes are walked the other way round; "" where a mask is empty.
    """
    return ["".join(_straight(loop) for loop in loops) for loops in _loops(_checked(masks, np.bool_))]


def smooth_paths(fields: np.ndarray, thresholds: np.ndarray) -> list[str]:
    """Where each field, `[N, h, w]` values of cells, is above its threshold `[N]` if interpolated bilinearly
    between cell centres, borders clamped. Coordinates are in 1/`FINE` of a cell."""
    fields = _checked(fields, np.float64)
    ys, xs = (_positions(n) for n in fields.shape[1:])
    down, across = _weights(ys, fields.shape[1]), _weights(xs, fields.shape[2])
    x = np.einsum("ih,nhw,jw->nij", down, fields, across, optimize=True)
    x -= np.asarray(thresholds, np.float64)[:, None, None]
    at = (ys * FINE).tolist(), (xs * FINE).tolist()
    return [
        "".join(_bent(loop, one, *at) for loop in loops)
        for loops, one in zip(_loops(x > 0), x.tolist(), strict=True)
    ]


def _checked(values: np.ndarray, dtype: type) -> np.ndarray:
    values = np.asarray(values, dtype)
    if values.ndim != 3:
        raise ArgumentError(f"outlines: got shape {values.shape}, expected [masks, height, width]")
    return values


def _loops(masks: np.ndarray) -> Iterator[list[list[Edge]]]:
    """Of each mask its outlines, walked with the mask on the right. Cells that touch at a corner alone stay
    apart."""
    n, height, width = masks.shape
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    leaving = np.zeros((n, height + 1, width + 1), np.uint8)  # of each corner, a bit a side that begins there
    for side, ((dy, dx), (y, x)) in enumerate(zip(_BEYOND, _CORNER, strict=True)):
        beyond = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        leaving[:, y : y + height, x : x + width] |= (masks & ~beyond).astype(np.uint8) << side
    flat = leaving.reshape(n, -1)
    which, at = np.nonzero(flat)
    ends = np.searchsorted(which, np.arange(n + 1)).tolist()
    corners, sides = at.tolist(), flat[which, at].tolist()
    for start, stop in pairwise(ends):
        left = dict(zip(corners[start:stop], sides[start:stop], strict=True))
        yield list(_walks(left, width + 1))


def _walks(leaving: dict[int, int], across: int) -> Iterator[list[Edge]]:
    """`leaving`: corner (y * across + x) -> its bits; empty in the end."""
    step = (1, across, -1, -across)
    while leaving:
        loop: list[Edge] = []
        first = at = next(iter(leaving))
        while bits := leaving.get(at, 0):
            if bits & (bits - 1):  # two cells share the corner: stay at the same one, by turning right
                side = (loop[-1][2] + 1) % 4 if loop else bits.bit_length() - 1
                leaving[at] = bits ^ (1 << side)
            else:
                side = bits.bit_length() - 1
                del leaving[at]
            loop.append((*divmod(at, across), side))
            at += step[side]
            if at == first and loop[0][2] == (side + 1) % 4:  # the other cell's side may be left here
                break
        yield loop


def _straight(loop: list[Edge]) -> str:
    """`M x y h n v n ... z`, beginning at a corner at which the outline turns."""
    turns = [i for i, edge in enumerate(loop) if edge[2] != loop[i - 1][2]]
    y, x, _ = loop[turns[0]]
    parts = [f"M{x} {y}"]
    for i, start in enumerate(turns[:-1]):  # z draws the last
        length, way = turns[i + 1] - start, loop[start][2]
        parts.append(f"{'hv'[way % 2]}{length if way < 2 else -length}")
    return "".join(parts) + "z"


def _bent(loop: list[Edge], x: list[list[float]], ys: list[float], xs: list[float]) -> str:
    """The same through the points where the field crosses 0 between a sample inside and one outside; `ys`,
    `xs`: where samples lie, the outermost on the border."""
    points: list[tuple[int, int]] = []
    for y, c, side in loop:
        (down, right), (dy, dx) = _CORNER[side], _BEYOND[side]
        y, c = y - down, c - right
        to, over = y + dy, c + dx
        if 0 <= to < len(ys) and 0 <= over < len(xs):
            inside = x[y][c]
            share = inside / (inside - x[to][over])
            point = (
                round(xs[c] + share * (xs[over] - xs[c])) if dx else round(xs[c]),
                round(ys[y] + share * (ys[to] - ys[y])) if dy else round(ys[y]),
            )
        else:
            point = round(xs[c]), round(ys[y])
        if not points or point != points[-1]:
            points.append(point)
    if len(points) > 1 and points[-1] == points[0]:
        points.pop()
    kept = [p for i, p in enumerate(points) if _turns(points[i - 1], p, points[(i + 1) % len(points)])]
    if len(kept) < 3:
        return ""
    told = " ".join(f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(kept)).replace(" -", "-")
    return f"M{kept[0][0]} {kept[0][1]}l{told}z"


def _turns(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0])


def _positions(cells: int) -> np.ndarray:
    """Where samples lie along a side of so many cells: on both borders, and `_SAMPLES` in each cell."""
    inner = (np.arange(cells * _SAMPLES) + 0.5) / _SAMPLES
    return np.concatenate([[0.0], inner, [float(cells)]])


def _weights(at: np.ndarray, cells: int) -> np.ndarray:
    """The weights of cells at these positions: `[positions, cells]`."""
    at = np.clip(at - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(np.int64), max(0, cells - 2))
    out = np.zeros((len(at), cells))
    rows = np.arange(len(at))
    out[rows, low] += 1 - (at - low)
    out[rows, np.minimum(low + 1, cells - 1)] += at - low
    return out
