"""Pixels of each label under each unit's mask, where values between cell centres are interpolated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _masks
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.cells import BlockLabels

OP = Op("bilinear_counts")


def bilinear_counts(
    x: torch.Tensor | Sequence[torch.Tensor],
    threshold: torch.Tensor,
    blocks: BlockLabels | Sequence[BlockLabels],
    counts: torch.Tensor,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> None:
    """`counts[u, c]` += the pixels with label c at which unit u's interpolated value is above `threshold[u]`.

    `x` float32 or bfloat16 `[gh * gw, U]`, a picture's grid in row order; `blocks` its labels; or as many of
    both as there are pictures. `threshold` float32 `[U]`; `counts` int64 `[U, C]`, added to in place.

    A pixel between centres with values a, b above and c, d below has, in float32, top = a + wx (b - a),
    bottom = c + wx (d - c) and the value top + wy (bottom - top), rounded after each operation; but never one
    outside its four corners, as in exact arithmetic: a plateau at the threshold is not above it. What equals
    the threshold is not above it, nor is NaN. (`F.interpolate(mode="bilinear", align_corners=False)` gives
    the same where float32 does not round.)
    """
    grids = [x] if isinstance(x, torch.Tensor) else list(x)
    labels = [blocks] if isinstance(blocks, BlockLabels) else list(blocks)
    if len(grids) != len(labels):
        raise ArgumentError(f"bilinear_counts: got {len(grids)} grids and {len(labels)} label maps")
    if not grids:
        return
    units = _masks.matrix("bilinear_counts", grids[0])[1]
    for grid, block in zip(grids, labels, strict=True):
        cells = block.grid[0] * block.grid[1]
        if _masks.matrix("bilinear_counts", grid) != (cells, units) or grid.dtype != grids[0].dtype:
            raise ArgumentError(
                f"bilinear_counts: got {grid.dtype} of shape {tuple(grid.shape)}, expected "
                f"{grids[0].dtype} of shape ({cells}, {units}): a row for each cell of the grid {block.grid}"
            )
    device = grids[0].device
    _masks.targets("bilinear_counts", units, device, threshold, counts, *(b.entries for b in labels))
    grids = [g.detach() if g.stride(1) == 1 else g.detach().contiguous() for g in grids]
    if units:
        module = OP.pick(backend, device.type, grids)
        module.bilinear_counts(grids, threshold, labels, counts, thread_count(threads))
