"""The specification of `decode_error`: dense products, of a block of rows at a time."""

from __future__ import annotations

import torch

from mmxai.kernels._codes import dense_blocks
from mmxai.kernels.codes import Codes


def supports(codes: Codes, W_dec: torch.Tensor, ends: tuple[int, ...]) -> str | None:
    return None


def decode_error(
    codes: Codes,
    W_dec: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor,
    base: torch.Tensor | None,
    ends: tuple[int, ...],
    weights: tuple[float, ...],
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    threads: int,
) -> None:
    groups = [slice(*at) for at in zip((0, *ends), ends, strict=False)]
    for rows, entries, part in dense_blocks(codes):
        errors, losses, acts = out[0][rows], out[1][rows], part.dense()
        recon = bias - target[rows] if base is None else bias + base[rows] - target[rows]
        for g, (group, weight) in enumerate(zip(groups, weights, strict=True)):
            recon = torch.addmm(recon, acts[:, group], W_dec[group])
            losses[:, g] = recon.double().square().sum(1)
            errors[:, g] = 2 * weight * recon
        for g in range(len(groups) - 2, -1, -1):
            errors[:, g] += errors[:, g + 1]
        for g, group in enumerate(groups):
            acts[:, group] = errors[:, g] @ W_dec[group].T
        out[2][entries] = part.gather(acts)
