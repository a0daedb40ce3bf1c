# mypy: allow-untyped-defs, allow-incomplete-defs
"""`code_gradients` in Triton: codes sorted by latent, then a program a latent; no atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels._codes import constants
from mmxai.kernels.codes import Codes

MOST = 8192


def supports(codes: Codes, errors: torch.Tensor, x: torch.Tensor) -> str | None:
    widest = max(errors.shape[-1], x.shape[-1])
    return None if widest <= MOST else f"rows of {widest}, it keeps at most {MOST}"


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
    order = codes.indices.argsort(stable=True)  # a latent's codes in the order of rows
    latents = torch.arange(codes.width + 1, dtype=torch.int32, device=x.device)
    starts = torch.searchsorted(codes.indices[order], latents)
    group = torch.bucketize(latents[:-1], constants(ends, torch.int32, x.device), right=True)
    rows = codes.row_of()[order]
    out_width, in_width = errors.shape[-1], x.shape[-1]
    blocks = [triton.next_power_of_2(w) for w in (out_width, in_width)]
    latent_gradients[(codes.width,)](
        codes.values[order], d_pre[order], rows, starts, group, errors, x, project, g_dec, g_enc, g_bias,
        squares, out_width, in_width, len(ends), OUT=blocks[0], IN=blocks[1],
        num_warps=4 if max(blocks) <= 2048 else 8,
    )  # fmt: skip


@triton.jit
def latent_gradients(
    values, d_pre, rows, starts, group, errors, x, project, g_dec, g_enc, g_bias, squares,
    out_width: tl.int32, in_width: tl.int32, groups: tl.int32, OUT: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(starts + latent), tl.load(starts + latent + 1)
    at = tl.arange(0, OUT)
    mask = at < out_width
    own = errors + tl.load(group + latent) * out_width + at
    total = tl.zeros([OUT], tl.float32)
    for i in range(begin, end):
        row = tl.load(rows + i)
        total += tl.load(values + i) * tl.load(own + row * groups * out_width, mask=mask, other=0.0)
    if project is not None:
        unit = tl.load(project + latent * out_width + at, mask=mask, other=0.0)
        total -= tl.sum(total * unit, 0) * unit
    tl.store(g_dec + latent * out_width + at, total, mask=mask)
    wide = total.to(tl.float64)
    square = tl.sum(wide * wide, 0)
    at = tl.arange(0, IN)
    mask = at < in_width
    total = tl.zeros([IN], tl.float32)
    bias = tl.full([], 0.0, tl.float32)
    for i in range(begin, end):
        d = tl.load(d_pre + i)
        bias += d
        total += d * tl.load(x + tl.load(rows + i) * in_width + at, mask=mask, other=0.0)
    tl.store(g_enc + latent * in_width + at, total, mask=mask)
    tl.store(g_bias + latent, bias)
    wide = total.to(tl.float64)
    square += tl.sum(wide * wide, 0) + bias.to(tl.float64) * bias.to(tl.float64)
    tl.store(squares + latent, square)
