"""The specification of `adam_rows`."""

from __future__ import annotations

import math

import torch


def supports(w: torch.Tensor) -> str | None:
    return None


def adam_rows(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    fixed: tuple[float, ...],
    scale: float | torch.Tensor,
    unit: bool,
    threads: int,
) -> None:
    lr, beta1, beta2, eps, correction1, correction2, decay = fixed
    if math.isnan(scale):
        return
    g = g * scale
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    w.mul_(1 - lr * decay)
    w.addcdiv_(m, v.sqrt().div_(correction2**0.5).add_(eps), value=-lr / correction1)
    if unit:
        norms = w.norm(dim=1, keepdim=True)
        w.div_(torch.where(norms > 0, norms, 1.0))
