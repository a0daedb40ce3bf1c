"""The specification of `mask_counts`: a product of the mask with the pixels by cell and label."""

from __future__ import annotations

import torch

from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes

ROWS = 4096


def supports(x: torch.Tensor | Codes) -> str | None:
    return None


def mask_counts(
    x: torch.Tensor | Codes, threshold: torch.Tensor, cells: CellLabels, counts: torch.Tensor, threads: int
) -> None:
    x = x.dense() if isinstance(x, Codes) else x
    present = cells.present()
    pixels = cells.dense(present).double()  # exact up to 2^53
    for first in range(0, len(x), ROWS):
        rows = slice(first, first + ROWS)
        mask = (x[rows].float() > threshold).double()
        counts[:, present] += (mask.T @ pixels[rows]).long()
