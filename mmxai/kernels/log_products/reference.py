"""The specification of `log_products`: in float64, unit by unit."""

from __future__ import annotations

import torch


def supports(p: torch.Tensor) -> str | None:
    return None


def log_products(
    p: torch.Tensor, tops: torch.Tensor, weights: torch.Tensor, floor: float, out: torch.Tensor, threads: int
) -> bool:
    """Fills `out`; False if `p` has what is no probability."""
    by = weights.double()[:, None]
    for unit, pictures in enumerate(tops.long()):
        out[unit] = (1 + by * (p[pictures].double() - 1) + floor).log().sum(0)
    return bool(((p >= 0) & (p <= 1)).all())
