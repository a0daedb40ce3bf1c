"""The specification of `pack`."""

from __future__ import annotations

import torch

from mmxai.kernels._convert import convert


def supports(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor) -> str | None:
    return None


def pack(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor, threads: int) -> int:
    rows = x.reshape(-1, x.shape[2])
    if index is not None:
        rows = rows[index]
    out.copy_(convert(rows, out.dtype))
    if x.dtype == out.dtype:
        return 0
    # What is not finite in x never becomes finite, so the difference is what overflowed.
    return int(rows.isfinite().sum() - out.isfinite().sum())
