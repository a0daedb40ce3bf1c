"""The specification of `topk_rows`."""

from __future__ import annotations

import torch


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None


def topk_rows(
    x: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, magnitude: bool, threads: int
) -> None:
    order = x.to(torch.float32)
    order = order.abs() if magnitude else order + 0.0  # + 0.0: -0.0 ties with 0.0
    best = order.sort(1, descending=True, stable=True).indices[:, : values.shape[1]]  # NaN comes first
    values.copy_(x.gather(1, best))
    indices.copy_(best)
