"""Principal components of streamed rows: one pass, exact.

scikit-learn's IncrementalPCA keeps only K components from block to block and so forgets what the next block
would have needed; a D x D scatter matrix in float64 forgets nothing and is small at the widths of a model.
"""

from __future__ import annotations

from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg import Moments
from mmxai.methods.decompose.stream import Blocks


def moments_of(blocks: Blocks) -> Moments:
    """Mean and scatter of all rows of a pass."""
    found: Moments | None = None
    for x in blocks():
        found = found or Moments(x.shape[1])
        found.update(x)
    if found is None or found.count < 2:
        raise ArgumentError(f"decompose: got {found.count if found else 0} rows, expected at least 2")
    return found


def fit_pca(moments: Moments, units: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """Directions float64 `[units, D]` of norm 1, the largest variance first, and facts: their variances and
    what share of all variance each is."""
    if units > moments.width:
        raise ArgumentError(
            f"pca: got {units} units for rows {moments.width} wide, expected at most {moments.width}"
        )
    directions, variances = moments.components(units)
    whole = float(moments.covariance.diagonal().sum())
    shares = variances / whole if whole else variances
    return directions, {"variances": variances.tolist(), "explained": shares.tolist()}
