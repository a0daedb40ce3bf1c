"""Masks from the forms that COCO and LVIS write them in: polygons, run lengths, compressed run lengths.

A mask of `h x w` pixels is a run of h * w bits, column after column. Edges are where the bit changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmxai.errors import DataError

_SCALE = 5  # points a pixel along a polygon's outline


def decode(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """Mask of an annotation's `segmentation`: bool `[h, w]`. DataError says what is wrong with it.

    A list of polygons is their union, `[x0, y0, x1, y1, ...]` each; a mapping holds `counts` and `size`.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, height, width, where)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise DataError(
            f"{where}: got a segmentation {type(segmentation).__name__}, expected polygons or RLE"
        )
    out = np.zeros(height * width, bool)
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise DataError(
                f"{where}: got a polygon of {points.size} numbers, expected x, y of 3 points or more"
            )
        _fill(out, polygon_edges(points.reshape(-1, 2), height, width), height)
    return out.reshape(width, height).T


def polygon_edges(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where bits change along the columns: int64, ascending. points: corners, float64 `[n, 2]` (x, y).

    The pixels are those of pycocotools' `frPyObjects` (`rleFrPoly`), which made all published areas and
    scores: the outline is walked in fifths of a pixel, and a column changes where that crosses its middle.
    """
    corners = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    start, step = corners, np.roll(corners, -1, 0) - corners
    reach = np.abs(step)
    flat = reach[:, 0] >= reach[:, 1]  # walked along x, else along y
    longest = reach.max(1)
    # Each side is walked from its low end, whichever way it runs, so that shared sides meet pixel for pixel.
    along = np.where(flat, step[:, 0], step[:, 1])
    low = np.where((along < 0)[:, None], start + step, start)
    rise = np.where(along < 0, -1, 1) * np.where(flat, step[:, 1], step[:, 0])
    slope = rise / np.maximum(longest, 1)
    side = np.repeat(np.arange(len(points)), longest + 1)
    first = np.cumsum(longest + 1) - (longest + 1)
    t = np.arange(len(side)) - first[side]
    t = np.where((along < 0)[side], longest[side] - t, t)
    straight = low[side] + t[:, None]
    across = slope[side] * t
    u = np.where(flat[side], straight[:, 0], np.trunc(low[side, 0] + across + 0.5).astype(np.int64))
    v = np.where(flat[side], np.trunc(low[side, 1] + across + 0.5).astype(np.int64), straight[:, 1])
    moved = u[1:] != u[:-1]
    x = (np.minimum(u[1:], u[:-1])[moved] + 0.5) / _SCALE - 0.5
    y = (np.minimum(v[1:], v[:-1])[moved] + 0.5) / _SCALE - 0.5
    inside = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[inside], 0, height)).astype(np.int64)
    edges: np.ndarray = np.sort(x[inside].astype(np.int64) * height + rows)
    return edges


def _fill(out: np.ndarray, edges: np.ndarray, height: int) -> None:
    """Set the bits between the edges 0 and 1, 2 and 3, ...; what follows an odd last one runs to the end."""
    if not len(edges):
        return
    first = int(edges[0]) // height * height
    stop = len(out) if len(edges) % 2 else min(len(out), (int(edges[-1]) // height + 1) * height)
    odd = np.bincount(edges - first, minlength=stop - first + 1)[: stop - first]
    out[first:stop] |= (np.cumsum(odd) & 1).astype(bool)


def _from_runs(rle: Mapping[str, Any], height: int, width: int, where: str) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if list(size or []) != [height, width]:
        raise DataError(f"{where}: got a mask of size {size}, expected [{height}, {width}] (height, width)")
    if isinstance(counts, str | bytes):
        runs = unpacked(counts.encode() if isinstance(counts, str) else counts, where)
    else:
        runs = np.asarray(counts)
    whole = runs.ndim == 1 and runs.dtype.kind in "iu" and (runs >= 0).all()
    if not whole or int(runs.sum()) != height * width:
        raise DataError(
            f"{where}: got run lengths that are no numbers or sum to another than {height} * {width} pixels, "
            "expected counts of COCO's RLE"
        )
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return bits.reshape(width, height).T


def unpacked(packed: bytes, where: str) -> np.ndarray:
    """Run lengths int64 of COCO's compressed string.

    Six bits a character from `0` on: five of a number, lowest first, and whether more follow; the last one's
    fifth bit is its sign. From the third run on a number is the difference to the run before the last.
    """
    runs: list[int] = []
    at = 0
    while at < len(packed):
        value, shift = 0, 0
        more = True
        while more:
            if at >= len(packed) or not 48 <= packed[at] < 112:
                raise DataError(f"{where}: got a damaged compressed RLE, expected COCO's (characters 0 to o)")
            code = packed[at] - 48
            value |= (code & 0x1F) << shift
            more = bool(code & 0x20)
            at, shift = at + 1, shift + 5
            if not more and code & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return np.array(runs, np.int64)
