"""The specification of `topk_rows`."""

from __future__ import annotations

import torch


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None


def topk_rows(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    values: torch.Tensor,
    indices: torch.Tensor,
    magnitude: bool,
    threads: int,
) -> None:
    x = x if bias is None else x + bias
    order = x.to(torch.float32)
    order = order.abs() if magnitude else order + 0.0  # + 0.0: -0.0 ties with 0.0
    best = order.sort(dim=1, descending=True, stable=True).indices[:, : values.shape[1]]  # NaN comes first
    kind = torch.int32 if x.dtype == torch.float32 else torch.int16  # torch moves NaNs of 16 bits to others
    values.view(kind).copy_(x.view(kind).gather(1, best))
    indices.copy_(best)
