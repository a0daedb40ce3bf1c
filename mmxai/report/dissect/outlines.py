"""Outlines of masks as SVG paths in cells of a grid: short, exact, and drawn at any size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmxai.errors import ArgumentError

FINE = 10
"""Steps of a cell in which smooth outlines are told."""

_SAMPLES = 4  # a cell's side in samples of a smooth outline
_STEP = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (y, x) right, down, left, up
_BEYOND = ((-1, 0), (0, 1), (1, 0), (0, -1))  # from a cell to what lies beyond its top, right, bottom, left

Edge = tuple[int, int, int]
"""Corner (y, x) from which a cell's side is walked, and the direction, an index into `_STEP`."""


def cell_paths(masks: np.ndarray) -> list[str]:
    """The path round the cells of each mask, bool `[N, h, w]`: cell (y, x) covers x..x+1, y..y+1.

    Holes are walked the other way round; "" where a mask is empty.
    """
    return ["".join(_straight(loop) for loop in loops) for loops in _loops(_checked(masks, np.bool_))]


def smooth_paths(fields: np.ndarray, thresholds: np.ndarray) -> list[str]:
    """Where each field, `[N, h, w]` values of cells, is above its threshold `[N]` if interpolated bilinearly
    between cell centres, borders clamped. Coordinates are in 1/`FINE` of a cell."""
    fields = _checked(fields, np.float64)
    down, across = (_weights(n) for n in fields.shape[1:])
    x = np.einsum("ih,nhw,jw->nij", down, fields, across, optimize=True)
    x -= np.asarray(thresholds, np.float64)[:, None, None]
    return ["".join(_bent(loop, one) for loop in loops) for loops, one in zip(_loops(x > 0), x, strict=True)]


def _checked(values: np.ndarray, dtype: type) -> np.ndarray:
    values = np.asarray(values, dtype)
    if values.ndim != 3:
        raise ArgumentError(f"outlines: got shape {values.shape}, expected [masks, height, width]")
    return values


def _loops(masks: np.ndarray) -> list[list[list[Edge]]]:
    """Of each mask its outlines, walked with the mask on the right. Cells that touch at a corner alone stay
    apart."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    n, height, width = masks.shape
    leaving: list[dict[tuple[int, int], list[int]]] = [{} for _ in range(n)]
    for way, (dy, dx) in enumerate(_BEYOND):
        beyond = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        which, y, x = np.nonzero(masks & ~beyond)
        # A top is walked from its left corner, a right side from its upper one, and so on round.
        y, x = y + (way in (2, 3)), x + (way in (1, 2))
        for k, a, b in zip(which.tolist(), y.tolist(), x.tolist(), strict=True):
            leaving[k].setdefault((a, b), []).append(way)
    return [list(_walks(one)) for one in leaving]


def _walks(leaving: dict[tuple[int, int], list[int]]) -> Iterator[list[Edge]]:
    while leaving:
        at = next(iter(leaving))
        way, loop = leaving[at][0], []
        while at in leaving:
            ways = leaving[at]
            if len(ways) > 1:  # a corner that two cells share: stay at the same one, by turning right
                way = (loop[-1][2] + 1) % 4 if loop else ways[0]
                ways.remove(way)
            else:
                way = ways[0]
                del leaving[at]
            loop.append((*at, way))
            at = at[0] + _STEP[way][0], at[1] + _STEP[way][1]
            if at == loop[0][:2] and loop[0][2] == (way + 1) % 4:  # both may leave from here
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


def _bent(loop: list[Edge], x: np.ndarray) -> str:
    """The same through the points where the field crosses 0 between a sample inside and one outside."""
    height, width = x.shape
    points: list[tuple[int, int]] = []
    for y0, x0, way in loop:
        y, c = y0 - (way in (2, 3)), x0 - (way in (1, 2))
        dy, dx = _BEYOND[way]
        share = 0.5  # the picture's border lies half a sample beyond the last
        if 0 <= y + dy < height and 0 <= c + dx < width:
            inside, outside = x[y, c], x[y + dy, c + dx]
            share = inside / (inside - outside)
        point = tuple(round((v + 0.5 + share * d) * FINE / _SAMPLES) for v, d in ((c, dx), (y, dy)))
        if not points or point != points[-1]:
            points.append(point)  # type: ignore[arg-type]
    kept = [p for i, p in enumerate(points) if _turns(points[i - 1], p, points[(i + 1) % len(points)])]
    if len(kept) < 3:
        return ""
    moves = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(kept, kept[1:], strict=False)]
    told = " ".join(f"{a} {b}" for a, b in moves).replace(" -", "-")
    return f"M{kept[0][0]} {kept[0][1]}l{told}z"


def _turns(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0])


def _weights(cells: int) -> np.ndarray:
    """Of each sample (`_SAMPLES` a cell, in their middles) the weights of the cells: `[samples, cells]`."""
    at = np.clip((np.arange(cells * _SAMPLES) + 0.5) / _SAMPLES - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(np.int64), max(0, cells - 2))
    out = np.zeros((len(at), cells))
    rows = np.arange(len(at))
    out[rows, low] += 1 - (at - low)
    out[rows, np.minimum(low + 1, cells - 1)] += at - low
    return out
