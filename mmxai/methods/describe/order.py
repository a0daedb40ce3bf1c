"""The largest of each row, in an order that says which of equal ones comes first."""

from __future__ import annotations

import torch

from mmxai.kernels.topk_rows import topk_rows

_KEYS = 1 << 22  # sorted at a time, 32 MiB


def largest(values: torch.Tensor, number: int, named: torch.Tensor | None = None) -> torch.Tensor:
    """int64 `[R, number]`: columns of the `number` largest of each row of float32 `[R, C]`, descending.

    Of equal values the one of the lowest column stands first, or the one of the lowest `named`, int64
    `[R, C]` in 0..2^32 - 1; torch.topk leaves that open. NaN is not expected.
    """
    if named is None:
        return topk_rows(values, number)[1].long()
    out = torch.empty((len(values), number), dtype=torch.int64, device=values.device)
    step = max(1, _KEYS // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        out[rows] = _keys(values[rows], named[rows]).topk(number, dim=1).indices
    return out


def _keys(values: torch.Tensor, name: torch.Tensor) -> torch.Tensor:
    """int64 that order as (value, -name) does."""
    bits = (values + 0).contiguous().view(torch.int32)  # -0 becomes 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) - name
