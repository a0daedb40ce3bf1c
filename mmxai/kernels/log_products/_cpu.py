"""`log_products` in C++: csrc/core/log_products.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native


def supports(p: torch.Tensor) -> str | None:
    return None


def log_products(
    p: torch.Tensor,
    scale: float,
    norms: torch.Tensor | None,
    tops: torch.Tensor,
    weights: torch.Tensor,
    floor: float,
    marginal: float,
    out: torch.Tensor,
    threads: int,
) -> bool:
    divided = None if norms is None else norms.numpy()
    arrays = (divided, tops.numpy(), weights.numpy(), floor, marginal, out.numpy())
    fine: bool = _native.cpu().loaded().log_products(p.numpy(), scale, *arrays, threads)
    return fine


def log_norms(x: torch.Tensor, scale: float, out: torch.Tensor, threads: int) -> None:
    _native.cpu().loaded().log_norms(x.numpy(), scale, out.numpy(), threads)
