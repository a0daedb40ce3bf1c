"""`cell_labels` in C++: csrc/core/cell_labels.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native


def supports(maps: torch.Tensor) -> str | None:
    return None


def cell_labels(
    maps: torch.Tensor,
    row_starts: torch.Tensor,
    col_starts: torch.Tensor,
    whole: torch.Tensor,
    bits: bool,
    threads: int,
) -> list[tuple[torch.Tensor, ...]]:
    arrays = (t.numpy() for t in (maps, row_starts, col_starts, whole))
    found = _native.cpu().loaded().cell_labels(*arrays, bits, threads)
    return [tuple(torch.from_numpy(a) for a in picture) for picture in found]
