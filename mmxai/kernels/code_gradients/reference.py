"""The specification of `code_gradients`: dense products, of a block of rows at a time."""

from __future__ import annotations

import torch

from mmxai.kernels._codes import dense_blocks
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
    for g in (g_dec, g_enc, g_bias):
        g.zero_()
    for rows, entries, part in dense_blocks(codes):
        acts, start = part.dense(), 0
        for group, end in enumerate(ends):
            g_dec[start:end].addmm_(acts[:, start:end].T, errors[rows, group])
            start = end
        pre = part.spread(d_pre[entries])
        g_enc.addmm_(pre.T, x[rows])
        g_bias += pre.sum(0)
    if project is not None:
        g_dec -= torch.linalg.vecdot(g_dec, project)[:, None] * project
    squares.copy_(g_bias.double().square())
    for matrix in (g_dec, g_enc):
        squares += torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square()
