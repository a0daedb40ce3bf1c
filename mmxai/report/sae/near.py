"""Which latents lie near one: by the direction they write, and by the rows in which they are active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_BLOCK = 1024


@dataclass(frozen=True)
class Neighbour:
    """Another latent. `cosine` of the decoder rows; `phi`: correlation of their activity (0 or 1) over rows;
    `given`: how often it is active where this one is. None where no store tells.
    """

    latent: int
    cosine: float
    phi: float | None = None
    given: float | None = None


def by_direction(W_dec: torch.Tensor, latents: Sequence[int], number: int) -> dict[int, list[Neighbour]]:
    """Of each of `latents`: those whose decoder rows (`W_dec` `[M, E]`) have the highest cosine with its."""
    unit = _unit(W_dec)
    number = min(number, len(unit) - 1)
    found: dict[int, list[Neighbour]] = {}
    for start in range(0, len(latents), _BLOCK):
        own = torch.as_tensor(list(latents[start : start + _BLOCK]))
        cosine = unit[own] @ unit.T
        cosine[torch.arange(len(own)), own] = -torch.inf
        values, index = cosine.topk(number, dim=1)
        for u, v, n in zip(own.tolist(), values.tolist(), index.tolist(), strict=True):
            found[u] = [Neighbour(other, c) for other, c in zip(n, v, strict=True)]
    return found


def by_activity(
    W_dec: torch.Tensor, latent: int, together: np.ndarray, fired: np.ndarray, rows: int, number: int
) -> list[Neighbour]:
    """The `number` latents whose activity correlates most with that of `latent`, where it does at all.

    `together`, `fired` int64 `[M]`: rows in which each is active with it, and at all; of `rows`.
    """
    own, both, each = float(fired[latent]), together.astype(np.float64), fired.astype(np.float64)
    spread = np.sqrt(own * (rows - own) * each * (rows - each))
    phi = np.divide(rows * both - own * each, spread, out=np.zeros(len(each)), where=spread > 0)
    phi[latent] = -1
    order = np.argsort(-phi, kind="stable")[:number]
    order = order[phi[order] > 0]
    cosine = (_unit(W_dec[torch.from_numpy(order)]) @ _unit(W_dec[latent : latent + 1]).T)[:, 0]
    return [
        Neighbour(int(n), c, float(phi[n]), float(both[n] / own))
        for n, c in zip(order, cosine.tolist(), strict=True)
    ]


def encoder_cosine(W_enc: torch.Tensor, W_dec: torch.Tensor, latents: Sequence[int]) -> list[float | None]:
    """Cosine of what a latent reads and what it writes; None each where input and output differ in width."""
    own = torch.as_tensor(list(latents))
    if W_enc.shape[1] != W_dec.shape[1]:
        return [None] * len(own)
    return (_unit(W_enc[own]) * _unit(W_dec[own])).sum(1).tolist()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.detach().float().cpu(), dim=1)
