"""The specification of `log_products`: in float64, unit by unit."""

from __future__ import annotations

import math

import torch

ROWS = 256


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
    """Fills `out`; False if `p` has what is no probability."""
    p = p.double() if norms is None else (scale * p.double() - norms.double()[:, None]).exp().clamp(max=1)
    by = weights.double()[:, None]
    found = torch.stack([(1 + by * (p[pictures] - 1) + floor).log().sum(0) for pictures in tops.long()])
    if marginal:
        found -= marginal * (found.logsumexp(0) - math.log(len(found)))
    out.copy_(found)
    return bool(((p >= 0) & (p <= 1)).all())


def log_norms(x: torch.Tensor, scale: float, out: torch.Tensor, threads: int) -> None:
    for rows, to in zip(x.split(ROWS), out.split(ROWS), strict=True):
        to.copy_((scale * rows.double()).logsumexp(1))
