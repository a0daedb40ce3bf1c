"""`select_above` in C++: csrc/core/select_above.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._codes import optional


def supports(x: torch.Tensor) -> str | None:
    return None


def select_above(
    x: torch.Tensor, cut: torch.Tensor | float, bias: torch.Tensor | None, threads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cuts, one = (optional(cut), 0.0) if isinstance(cut, torch.Tensor) else (None, cut)
    found = _native.cpu().loaded().select_above(x.numpy(), optional(bias), cuts, one, threads)
    values, indices, counts = (torch.from_numpy(a) for a in found)
    return values, indices, counts
