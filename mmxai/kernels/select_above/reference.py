"""The specification of `select_above`."""

from __future__ import annotations

import torch


def supports(x: torch.Tensor) -> str | None:
    return None


def select_above(
    x: torch.Tensor, cut: torch.Tensor | float, bias: torch.Tensor | None, threads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values float32 and indices int32 of all rows' entries, and how many each row has, int64."""
    x = x if bias is None else x + bias
    held = x > cut
    return x[held], held.nonzero()[:, 1].to(torch.int32), held.sum(1)
