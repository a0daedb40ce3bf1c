"""`log_products` in C++: csrc/core/log_products.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native


def supports(p: torch.Tensor) -> str | None:
    return None


def log_products(
    p: torch.Tensor, tops: torch.Tensor, weights: torch.Tensor, floor: float, out: torch.Tensor, threads: int
) -> bool:
    arrays = (t.numpy() for t in (p, tops, weights))
    held: bool = _native.cpu().loaded().log_products(*arrays, floor, out.numpy(), threads)
    return held
