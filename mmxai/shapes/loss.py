"""The contrastive loss of a world in which it is known which sentence is true of which picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import softplus

from mmxai.shapes.feed import KINDS

WEIGHTS = {
    "full": 1.0,
    "relation": 1.0,
    "partial": 1.0,
    "count": 0.25,
    "background": 0.1,
    "prompt": 1.0,
    "place": 2.0,
}


def contrastive(
    scores: torch.Tensor, kinds: torch.Tensor, true: torch.Tensor, weights: Mapping[str, float] = WEIGHTS
) -> torch.Tensor:
    """Mean over both directions and, weighted, over the kinds of sentences that there are.

    scores: float `[T, N]`, sentences by pictures, times the scale; kinds: int64 `[T]`, which of `feed.KINDS`;
    true: bool `[T, N]`. For each true pair the loss is -log of its share among itself and all false
    ones of its kind: InfoNCE (van den Oord et al. 2018) with as many positives as there are, each alone
    against the negatives (as in Khosla et al. 2020, without their competing with one another).
    """
    total, weighed = scores.new_zeros(()), 0.0
    for name, weight in weights.items():
        rows = (kinds == KINDS.index(name)).nonzero()[:, 0]
        if len(rows):
            s, t = scores[rows], true[rows]
            total = total + weight * (_direction(s, t, 0) + _direction(s, t, 1)) / 2
            weighed += weight
    return total / weighed


def _direction(scores: torch.Tensor, true: torch.Tensor, dim: int) -> torch.Tensor:
    against = scores.masked_fill(true, -1e4).logsumexp(dim, keepdim=True)
    losses = softplus(against - scores) * true
    count = true.sum(dim)
    return (losses.sum(dim)[count > 0] / count[count > 0]).mean() if true.any() else scores.sum() * 0
