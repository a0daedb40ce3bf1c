"""Masks from the forms that COCO and LVIS write them in: polygons, run lengths, compressed run lengths.

A mask of `h x w` pixels is a run of h * w bits, column after column. Edges are where the bit changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmxai.concepts.layers import Patch
from mmxai.errors import DataError

_SCALE = 5  # points a pixel along a polygon's outline


def decode(segmentation: Any, height: int, width: int, where: str) -> Patch:
    """Mask of an annotation's `segmentation` for a picture `h x w`. DataError says what is wrong with it.

    A list of polygons is their union, `[x0, y0, x1, y1, ...]` each; a mapping holds `counts` and `size`.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, height, width, where)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise DataError(
            f"{where}: got a segmentation {type(segmentation).__name__}, expected polygons or RLE"
        )
    edges = []
    for polygon in segmentation:
        points = np.asarray(polygon) if _numbers(polygon) else np.zeros(0)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise DataError(
                f"{where}: got a polygon {polygon!r:.80}, expected numbers x, y of 3 points or more"
            )
        edges.append(polygon_edges(points.reshape(-1, 2).astype(np.float64), height, width))
    return _filled([e for e in edges if len(e)], height, width)


def compact(segmentation: Any) -> Any:
    """The same with its numbers in arrays, in half the memory; what is wrong stays as it is."""
    if isinstance(segmentation, list):
        return [np.array(p, np.float64) if _numbers(p) else p for p in segmentation]
    if isinstance(segmentation, dict) and _numbers(counts := segmentation.get("counts")):
        return segmentation | {"counts": np.array(counts)}
    return segmentation


def _numbers(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iuf"
    return isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)


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


def _filled(edges: list[np.ndarray], height: int, width: int) -> Patch:
    """Bits between the edges 0 and 1, 2 and 3, ... of each; what follows an odd last one runs to the end."""
    if not edges:
        return Patch(np.zeros((0, 0), bool))
    left = min(int(e[0]) for e in edges) // height
    right = min(width, max(width if len(e) % 2 else int(e[-1]) // height + 1 for e in edges))
    bits = np.zeros((right - left) * height, bool)
    for own in edges:
        bits |= _runs(np.diff(own, prepend=left * height, append=right * height))
    columns = bits.reshape(-1, height)
    used = np.flatnonzero(columns.any(0))
    top, bottom = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return Patch(columns[:, top:bottom].T, top, left)


def _from_runs(rle: Mapping[str, Any], height: int, width: int, where: str) -> Patch:
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
    return Patch(_runs(runs).reshape(width, height).T)


def _runs(lengths: np.ndarray) -> np.ndarray:
    """Runs of bits by turns, the first of zeros."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


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
