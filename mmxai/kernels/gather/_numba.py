"""`gather` under numba, part by part. One thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels._args import FLOATS, bits
from mmxai.kernels._jit import jit, narrow, widen

if TYPE_CHECKING:
    from mmxai.kernels.gather import EncodedTable, PartTable


def supports() -> str | None:
    return None


@jit
def _copy(part: np.ndarray, rows: np.ndarray, where: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(rows)):
        out[where[i]] = part[rows[i]]


@jit
def _widen(part: np.ndarray, rows: np.ndarray, where: np.ndarray, out: np.ndarray, dtype: int) -> None:
    for i in range(len(rows)):
        for d in range(part.shape[1]):
            out[where[i], d] = widen(part[rows[i], d], dtype)


def gather(table: PartTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> None:
    same = out.dtype == table.dtype
    target = bits(out) if same else out.view(torch.uint32).numpy()
    part_of = np.searchsorted(table.starts[1:], rows, side="right")
    for p in np.unique(part_of):
        where = np.flatnonzero(part_of == p)
        local = rows[where] - table.starts[p]
        part = np.asarray(table.parts[p])  # numba does not take np.memmap
        if same:
            _copy(part, local, where, target)
        else:
            _widen(part, local, where, target, FLOATS.index(table.dtype))


_BF16 = FLOATS.index(torch.bfloat16)


@jit
def _dequantise(
    part: np.ndarray, scales: np.ndarray, rows: np.ndarray, where: np.ndarray, out: np.ndarray, to: int
) -> None:
    product = np.empty(part.shape[1], np.float32)
    for i in range(len(rows)):
        scale = scales[rows[i], 0]
        for d in range(part.shape[1]):
            product[d] = np.float32(part[rows[i], d]) * scale
        bits_of = product.view(np.uint32)
        for d in range(part.shape[1]):
            out[where[i], d] = narrow(np.int64(bits_of[d]), to)


@jit
def _place(
    kept: np.ndarray, places: np.ndarray, same: bool, rows: np.ndarray, where: np.ndarray, out: np.ndarray,
    shift: int,
) -> int:  # fmt: skip
    outside = 0
    for i in range(len(rows)):
        for j in range(kept.shape[1]):
            d = np.int64(places[0 if same else rows[i], j])
            if d < 0 or d >= out.shape[1]:
                outside += 1
            else:
                out[where[i], d] = np.int64(kept[rows[i], j]) << shift
    return outside


def gather_encoded(table: EncodedTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> int:
    wide = out.dtype == torch.float32
    target = out.view(torch.uint32).numpy() if wide else bits(out)
    part_of = np.searchsorted(table.starts[1:], rows, side="right")
    outside = 0
    if table.quantised is None:
        target[:] = 0
    for p in np.unique(part_of):
        where = np.flatnonzero(part_of == p)
        local = rows[where] - table.starts[p]
        if table.quantised is not None and table.scales is not None:
            pieces = (np.asarray(t.parts[p]) for t in (table.quantised, table.scales))
            _dequantise(*pieces, local, where, target, 0 if wide else _BF16)
        held = table.places
        if table.kept is not None and held is not None:
            same = isinstance(held, np.ndarray)
            places = held[None] if isinstance(held, np.ndarray) else np.asarray(held.parts[p])
            kept = np.asarray(table.kept.parts[p])
            outside += _place(kept, places, same, local, where, target, 16 if wide else 0)
    return outside
