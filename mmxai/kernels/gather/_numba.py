"""`gather` under numba, part by part. One thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels._args import FLOATS, bits
from mmxai.kernels._jit import jit, widen

if TYPE_CHECKING:
    from mmxai.kernels.gather import PartTable


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
