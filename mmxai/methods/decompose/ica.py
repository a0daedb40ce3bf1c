"""Independent components of streamed rows: symmetric FastICA (Hyvarinen 1999) with the logcosh contrast.

scikit-learn's FastICA holds all rows, and a whitened copy, in memory. Here an iteration is a pass, whose sums
are all it keeps, so that it takes the very steps of FastICA on all rows; most of them are taken on a sample
first.
"""

from __future__ import annotations

from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg import Moments
from mmxai.methods.decompose.stream import Blocks

_LEAST = 1e-10  # of the largest variance: components below it are rounding errors


def fit_ica(
    moments: Moments,
    sample: Blocks,
    rows: Blocks | None,
    units: int,
    *,
    warm: int = 200,
    passes: int = 12,
    tol: float = 1e-4,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Directions and encoder, float64 `[units, D]` both, and facts.

    Rows are whitened by `moments` and kept to their first `units` principal components. Iterations run over
    `sample` (at most `warm`), then over `rows` (at most `passes`; None: the sample is all there is), until no
    unit's vector turns by more than 1 - |cosine| = `tol`. Codes have variance 1; units come in falling order
    of the variance they explain, with the sign that makes their codes' skewness positive. ArgumentError
    where the rows do not vary in `units` directions.
    """
    if units > moments.width:
        raise ArgumentError(f"ica: got {units} units for rows {moments.width} wide, expected no more")
    components, variances = moments.components(units)
    if float(variances[-1]) <= _LEAST * float(variances[0]):
        found = int((variances > _LEAST * variances[0]).sum())
        raise ArgumentError(
            f"ica: got {units} units of rows that vary in {found} directions, expected at most {found} units"
        )
    deviations = variances.sqrt()
    whitening = components / deviations[:, None]  # [K, D]
    generator = torch.Generator().manual_seed(seed)
    turn = _orthogonal(torch.randn(units, units, dtype=torch.float64, generator=generator))
    facts: dict[str, Any] = {"converged": False, "iterations": 0, "passes": 0, "change": None}
    for blocks, most, name in ((sample, warm, "iterations"), (rows, passes, "passes")):
        if blocks is None:
            continue
        facts["converged"] = False
        for _ in range(most):
            turned = _step(blocks, moments.mean, whitening, turn)
            change = float((1 - (turned * turn).sum(1).abs()).max())
            turn = turned
            facts[name] += 1
            facts["change"] = change
            if change < tol:
                facts["converged"] = True
                break
    directions = turn @ (components * deviations[:, None])
    encoder = turn @ whitening
    skewness = _skewness(rows or sample, moments.mean, encoder)
    order = directions.norm(dim=1).argsort(descending=True)
    sign = torch.where(skewness < 0, -1.0, 1.0).double()[:, None]
    facts["skewness"] = skewness.abs()[order].tolist()
    return (directions * sign)[order], (encoder * sign)[order], facts


def _step(blocks: Blocks, mean: torch.Tensor, whitening: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """w <- E[z tanh(w z)] - E[1 - tanh^2(w z)] w for all w at once, made orthogonal. Products of a block run
    in float32, sums in float64."""
    encoder, offset = (turn @ whitening).float(), mean.float()
    count, slope = 0, torch.zeros(len(turn), dtype=torch.float64)
    pulled = torch.zeros(len(turn), whitening.shape[1], dtype=torch.float64)
    for x in blocks():
        centred = x - offset
        g = (centred @ encoder.T).tanh_()
        pulled += (g.T @ centred).double()
        slope += (1 - g.square().mean(0).double()) * len(x)
        count += len(x)
    # pulled is E[g (x - mean)]: whitening makes z of x - mean once, not row by row.
    return _orthogonal(pulled @ whitening.T / count - slope[:, None] / count * turn)


def _orthogonal(w: torch.Tensor) -> torch.Tensor:
    """(w w')^(-1/2) w."""
    u, _, v = torch.linalg.svd(w)
    return u @ v


def _skewness(blocks: Blocks, mean: torch.Tensor, encoder: torch.Tensor) -> torch.Tensor:
    total, count = torch.zeros(len(encoder), dtype=torch.float64), 0
    for x in blocks():
        total += ((x - mean.float()) @ encoder.float().T).pow(3).sum(0).double()
        count += len(x)
    return total / count
