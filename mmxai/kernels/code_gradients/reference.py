"""The specification of `code_gradients`."""

from __future__ import annotations

import torch

from mmxai.kernels.codes import Codes


def supports(codes: Codes, errors: torch.Tensor, x: torch.Tensor) -> str | None:
    return None


def code_gradients(
    codes: Codes,
    d_pre: torch.Tensor,
    errors: torch.Tensor,
    x: torch.Tensor,
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    ends: tuple[int, ...],
    project: torch.Tensor | None,
    threads: int,
) -> None:
    g_dec, g_enc, g_bias, squares = out
    acts, pre = codes.dense(), codes.spread(d_pre)
    start = 0
    for g, end in enumerate(ends):
        torch.mm(acts[:, start:end].T, errors[:, g], out=g_dec[start:end])
        start = end
    if project is not None:
        g_dec -= (g_dec * project).sum(1, keepdim=True) * project
    torch.mm(pre.T, x, out=g_enc)
    torch.sum(pre, 0, out=g_bias)
    squares.copy_(g_dec.double().square().sum(1) + g_enc.double().square().sum(1) + g_bias.double().square())
