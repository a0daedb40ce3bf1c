"""The specification of `decode_error`."""

from __future__ import annotations

import torch

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
    errors, losses, d_values = out
    acts, starts = codes.dense(), (0, *ends)
    recon = bias - target if base is None else bias + base - target
    for g, weight in enumerate(weights):
        group = slice(starts[g], ends[g])
        recon = recon + acts[:, group] @ W_dec[group]
        losses[:, g] = recon.double().square().sum(1)
        errors[:, g] = 2 * weight * recon
    for g in range(len(weights) - 2, -1, -1):
        errors[:, g] += errors[:, g + 1]
    for g, end in enumerate(ends):
        acts[:, starts[g] : end] = errors[:, g] @ W_dec[starts[g] : end].T
    d_values.copy_(codes.gather(acts))
