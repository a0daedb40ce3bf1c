"""`mask_counts` in C++: csrc/core/mask_counts.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits
from mmxai.kernels._codes import arrays
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes


def supports(x: torch.Tensor | Codes) -> str | None:
    return None


def mask_counts(
    x: torch.Tensor | Codes, threshold: torch.Tensor, cells: CellLabels, counts: torch.Tensor, threads: int
) -> None:
    native = _native.cpu().loaded()
    labels = tuple(t.numpy() for t in (cells.offsets, cells.columns, cells.counts))
    cut, to = threshold.detach().numpy(), counts.numpy()
    if isinstance(x, Codes):
        native.mask_counts_sparse(*arrays(x), cut, *labels, to, threads)
    else:
        native.mask_counts(bits(x), FLOATS.index(x.dtype), cut, *labels, to, threads)
