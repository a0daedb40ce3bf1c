"""The specification of `topk_product`: the product in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmxai.kernels.topk_rows import topk_rows

ROWS = 512


def supports(x: torch.Tensor, w: torch.Tensor, k: int) -> str | None:
    return None


def topk_product(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    indices: torch.Tensor,
    scratch: Callable[[int], torch.Tensor],
    threads: int,
) -> None:
    for first in range(0, len(x), ROWS):
        rows = slice(first, first + ROWS)
        values[rows], indices[rows] = topk_rows(
            x[rows] @ w.T, values.shape[1], bias=bias, threads=threads, backend="reference"
        )
