# mypy: allow-untyped-defs, allow-incomplete-defs
"""`decode_error` in Triton: a program a row, whose error stays in registers for the codes' gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels._codes import constants
from mmxai.kernels.codes import Codes

MOST = 8192


def supports(codes: Codes, W_dec: torch.Tensor, ends: tuple[int, ...]) -> str | None:
    return None if W_dec.shape[1] <= MOST else f"rows of {W_dec.shape[1]}, it keeps at most {MOST}"


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
    if not codes.rows:
        return
    device, width = W_dec.device, W_dec.shape[1]
    block = triton.next_power_of_2(width)
    starts = constants((0, *ends), torch.int32, device)
    twice = constants(tuple(2 * w for w in weights), torch.float32, device)
    error_rows[(codes.rows,)](
        codes.values, codes.indices, codes.offsets, W_dec, target, bias, base, starts, twice, errors, losses,
        d_values, width, len(ends), BLOCK=block, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip


@triton.jit
def error_rows(
    values, indices, offsets, table, target, bias, base, starts, twice, errors, losses, d_values,
    width: tl.int32, groups: tl.int32, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < width
    begin, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    held = tl.load(bias + at, mask=mask, other=0.0) - tl.load(target + row * width + at, mask=mask, other=0.0)
    if base is not None:
        held += tl.load(base + row * width + at, mask=mask, other=0.0)
    own = errors + row * groups * width
    for g in range(groups):
        first, last = tl.load(starts + g), tl.load(starts + g + 1)
        for i in range(begin, end):
            latent = tl.load(indices + i)
            if (latent >= first) & (latent < last):
                there = table + latent.to(tl.int64) * width + at
                held += tl.load(values + i) * tl.load(there, mask=mask, other=0.0)
        wide = held.to(tl.float64)
        tl.store(losses + row * groups + g, tl.sum(wide * wide, 0))
        tl.store(own + g * width + at, tl.load(twice + g) * held, mask=mask)
    # A thread reads again what it wrote itself: the layouts are the same.
    sums = tl.zeros([BLOCK], tl.float32)
    for back in range(groups):
        g = groups - 1 - back
        sums += tl.load(own + g * width + at, mask=mask, other=0.0)
        tl.store(own + g * width + at, sums, mask=mask)
        first, last = tl.load(starts + g), tl.load(starts + g + 1)
        for i in range(begin, end):
            latent = tl.load(indices + i)
            if (latent >= first) & (latent < last):
                there = table + latent.to(tl.int64) * width + at
                tl.store(d_values + i, tl.sum(sums * tl.load(there, mask=mask, other=0.0), 0))
