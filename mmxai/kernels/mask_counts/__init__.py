"""Pixels of each label under each unit's mask, where a pixel has the value of its cell."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _codes, _masks
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes

OP = Op("mask_counts")


def mask_counts(
    x: torch.Tensor | Codes,
    threshold: torch.Tensor,
    cells: CellLabels,
    counts: torch.Tensor,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> None:
    """`counts[u, c]` += the pixels with label c of the cells t where `x[t, u] > threshold[u]`. Exact.

    `x` float32 or bfloat16 `[T, U]`, a row a cell, of as many pictures as you like; or `Codes` of T rows and
    width U, absent entries being 0, with thresholds not below 0. `threshold` float32 `[U]`; `counts` int64
    `[U, C]`, added to in place. What equals the threshold is not above it, nor is NaN. All on one device.
    """
    rows, units = (x.rows, x.width) if isinstance(x, Codes) else _masks.matrix("mask_counts", x)
    device = x.values.device if isinstance(x, Codes) else x.device
    if rows != cells.rows:
        raise ArgumentError(f"mask_counts: got {rows} rows of x and {cells.rows} cells, expected as many")
    _masks.targets("mask_counts", units, device, threshold, counts, cells)
    if isinstance(x, Codes):
        _codes.codes_on("mask_counts", x)
        if (threshold < 0).any():
            raise ArgumentError(
                f"mask_counts: got a threshold of {float(threshold.min()):.3g}, expected none below 0: "
                "entries that codes do not have are 0, and would be above it"
            )
    elif x.stride(1) != 1:
        x = x.contiguous()
    if rows and units:
        module = OP.pick(backend, device.type, x)
        module.mask_counts(x, threshold, cells, counts, thread_count(threads))
