"""The labels of a picture's pixels, by the cells of a grid or by the blocks between their centres."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.cells import BlockLabels, CellLabels

OP = Op("cell_labels")


def cell_labels(
    maps: torch.Tensor | np.ndarray,
    rows: torch.Tensor | np.ndarray,
    cols: torch.Tensor | np.ndarray,
    grid: Sequence[int],
    *,
    whole: Sequence[int] = (),
    threads: int | None = None,
    backend: str = "auto",
) -> CellLabels:
    """How many pixels of each cell have each label: what `mask_counts` sums.

    `maps` int32 `[M, h, w]`, label numbers, -1 for none; M may be 0. Or `[B, M, h, w]`, of B pictures that
    lie alike on their grids: their cells then follow one another. `rows` int32 `[h]` and `cols` int32 `[w]`:
    the grid row and column (of `grid`, (gh, gw)) in which a map row and column lies, ascending, -1 outside.
    `whole`: labels that every pixel has. A pixel counts once for a label, however many maps say so. On the
    CPU, where labels come from; `.to(device)` moves the result.
    """
    maps = _maps(maps)
    row_starts = _cell_starts("rows", rows, maps.shape[2], grid[0])
    col_starts = _cell_starts("cols", cols, maps.shape[3], grid[1])
    found = _entries(maps, row_starts, col_starts, whole, False, threads, backend)
    if len(found) == 1:
        return found[0][0]
    return CellLabels.cat([CellLabels(torch.zeros(1, dtype=torch.int64), *_NONE), *(f[0] for f in found)])


def block_labels(
    maps: torch.Tensor | np.ndarray,
    ys: torch.Tensor | np.ndarray,
    xs: torch.Tensor | np.ndarray,
    grid: Sequence[int],
    *,
    whole: Sequence[int] = (),
    backend: str = "auto",
) -> BlockLabels:
    """The same by the blocks between the cells' centres, pixel by pixel: what `bilinear_counts` sums.

    `maps` int32 `[M, h, w]`. `ys` float64 `[h]` and `xs` float64 `[w]`: where a map row and column lies
    between the grid's centres, ascending, 0 the first centre (or before it) and gh - 1 the last (or after
    it), -1 outside.
    """
    maps = _maps(maps)
    if len(maps) != 1:
        raise ArgumentError(f"block_labels: got the maps of {len(maps)} pictures, expected those of one")
    return block_labels_of_all(maps, ys, xs, grid, whole=whole, backend=backend)[0]


def block_labels_of_all(
    maps: torch.Tensor | np.ndarray,
    ys: torch.Tensor | np.ndarray,
    xs: torch.Tensor | np.ndarray,
    grid: Sequence[int],
    *,
    whole: Sequence[int] = (),
    threads: int | None = None,
    backend: str = "auto",
) -> list[BlockLabels]:
    """`block_labels` of B pictures that lie alike on their grids: `maps` int32 `[B, M, h, w]`."""
    maps = _maps(maps)
    row_starts, row_weights = _block_starts("ys", ys, maps.shape[2], grid[0])
    col_starts, col_weights = _block_starts("xs", xs, maps.shape[3], grid[1])
    shape = (int(grid[0]), int(grid[1]))
    return [
        BlockLabels(shape, row_starts, col_starts, row_weights, col_weights, *found)
        for found in _entries(maps, row_starts, col_starts, whole, True, threads, backend)
    ]


_NONE = (torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.int32))


def _entries(
    maps: torch.Tensor,
    row_starts: torch.Tensor,
    col_starts: torch.Tensor,
    whole: Sequence[int],
    bits: bool,
    threads: int | None,
    backend: str,
) -> list[tuple[CellLabels, torch.Tensor, torch.Tensor]]:
    everywhere = torch.tensor(sorted(set(whole)), dtype=torch.int32)
    if len(everywhere) and int(everywhere[0]) < 0:
        raise ArgumentError(f"cell_labels: got whole {list(whole)}, expected labels from 0 on")
    module = OP.pick(backend, "cpu", maps)
    found = module.cell_labels(maps, row_starts, col_starts, everywhere, bits, thread_count(threads))
    return [(CellLabels(offsets, columns, counts), *packed) for offsets, columns, counts, *packed in found]


def _maps(maps: torch.Tensor | np.ndarray) -> torch.Tensor:
    """`[B, M, h, w]`, contiguous."""
    maps = torch.as_tensor(maps)
    if maps.ndim not in (3, 4) or maps.dtype != torch.int32 or maps.device.type != "cpu":
        raise ArgumentError(
            f"cell_labels: maps are {maps.dtype} of shape {tuple(maps.shape)} on {maps.device}, expected "
            "(M, h, w) or (B, M, h, w) of int32 on the CPU"
        )
    return (maps if maps.ndim == 4 else maps[None]).contiguous()


def _vector(name: str, x: torch.Tensor | np.ndarray, length: int, dtype: type) -> bytes:
    x = np.asarray(x)
    if x.shape != (length,) or x.dtype != dtype:
        raise ArgumentError(
            f"cell_labels: {name} is {x.dtype} of shape {x.shape}, expected {np.dtype(dtype)} of shape "
            f"({length},), as the maps are"
        )
    return x.tobytes()


def _cell_starts(name: str, cells: torch.Tensor | np.ndarray, length: int, n: int) -> torch.Tensor:
    """Where each of n cells begins, and where the last ends, int32 `[n + 1]`."""
    return _starts(name, _vector(name, cells, length, np.int32), n)


# Pictures of one size share their places on the grid: what is found of these is kept, and not to be changed.
@lru_cache(maxsize=256)
def _starts(name: str, places: bytes, n: int) -> torch.Tensor:
    cells = np.frombuffer(places, np.int32)
    seen = np.flatnonzero(cells >= 0)
    inside = cells[seen]
    if len(seen) and (inside.max() >= n or (np.diff(inside) < 0).any() or seen[-1] - seen[0] >= len(seen)):
        raise ArgumentError(
            f"cell_labels: got {name} {cells.tolist()}, expected them to rise from 0 to at most {n - 1}, "
            "with -1 before and behind"
        )
    first = int(seen[0]) if len(seen) else 0
    return torch.from_numpy((first + np.searchsorted(inside, np.arange(n + 1))).astype(np.int32))


def _block_starts(
    name: str, positions: torch.Tensor | np.ndarray, length: int, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of n + 1 blocks, and the weight of the second centre, float32 `[length]`."""
    return _weighted_starts(name, _vector(name, positions, length, np.float64), n)


@lru_cache(maxsize=256)
def _weighted_starts(name: str, places: bytes, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = np.frombuffer(places, np.float64)
    if ((at > n - 1) | ((at < 0) & (at != -1)) | np.isnan(at)).any():
        raise ArgumentError(
            f"cell_labels: got {name} {at.min()} to {at.max()}, expected positions 0 to {n - 1}, -1 outside"
        )
    lower = np.floor(at)
    blocks = np.where(at < 0, -1, np.where(at == 0, 0, np.where(at == n - 1, n, lower + 1)))
    weights = torch.from_numpy((at - lower).astype(np.float32))
    return _starts(name, blocks.astype(np.int32).tobytes(), n + 1), weights
