"""`cell_labels` in C++: csrc/core/cell_labels.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native


def supports(maps: torch.Tensor) -> str | None:
    return None


def cell_labels(
    maps: torch.Tensor, row_starts: torch.Tensor, col_starts: torch.Tensor, whole: torch.Tensor, bits: bool
) -> tuple[torch.Tensor, ...]:
    native = _native.cpu().loaded()
    found = native.cell_labels(maps.numpy(), row_starts.numpy(), col_starts.numpy(), whole.numpy(), bits)
    return tuple(torch.from_numpy(a) for a in found)
