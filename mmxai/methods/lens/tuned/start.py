"""The closed-form start: the last state less an earlier one, regressed on the earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from mmxai.linalg import FoldedGram, ridge_path
from mmxai.linalg.states import DualState
from mmxai.types import Batch

Affine = tuple[torch.Tensor, torch.Tensor]


def least_squares(
    batches: Iterable[Batch],
    sites: Sequence[str],
    final: str,
    width: int,
    penalties: Sequence[float],
    rows: int,
) -> Mapping[str, list[Affine]]:
    """site -> a translator (A float32 `[D, D]`, b `[D]`) for each penalty, of one pass over `batches`.

    What is regressed is the difference of the two states, so that a penalty draws towards the plain lens, and
    b carries no penalty. Held are two matrices D x D in float64 a site, whatever the rows.
    """
    share = min(penalties)
    grams = {s: FoldedGram(width, width, rows=rows, product="auto", share=share) for s in sites}
    for batch in batches:
        target = batch[final]
        for site, gram in grams.items():
            x = batch[site]
            gram.update(x, target - x)
    found = {}
    for site in sites:
        state = grams.pop(site).total()
        squares = state.x.square().sum() if isinstance(state, DualState) else state.xx.diagonal().sum()
        # Rows that are all alike leave nothing to regress on: any penalty gives A = 0.
        mean = float(squares) / width or 1.0
        coef, intercept = ridge_path(state, [p * mean for p in penalties], accuracy=1e-6)
        found[site] = [(c.T.float().contiguous(), b.float()) for c, b in zip(coef, intercept, strict=True)]
    return found
