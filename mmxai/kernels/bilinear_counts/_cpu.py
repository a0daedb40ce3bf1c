"""`bilinear_counts` in C++: csrc/core/bilinear_counts.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits
from mmxai.kernels.cells import BlockLabels


def supports(grids: list[torch.Tensor]) -> str | None:
    return None


def bilinear_counts(
    grids: list[torch.Tensor],
    threshold: torch.Tensor,
    labels: list[BlockLabels],
    counts: torch.Tensor,
    threads: int,
) -> None:
    pictures = []
    for x, b in zip(grids, labels, strict=True):
        entries = (b.entries.offsets, b.entries.columns, b.entries.counts)
        tensors = (b.row_starts, b.col_starts, b.row_weights, b.col_weights, *entries, b.starts, b.bits)
        pictures.append((bits(x), *b.grid, *(t.numpy() for t in tensors)))
    kind = FLOATS.index(grids[0].dtype)
    _native.cpu().loaded().bilinear_counts(
        pictures, kind, threshold.detach().numpy(), counts.numpy(), threads
    )
