# mypy: allow-untyped-defs, allow-incomplete-defs
"""`decode_codes` in Triton: a program a row and block of columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels.codes import Codes

COLUMNS = 1024


def supports(codes: Codes, W_dec: torch.Tensor) -> str | None:
    return None


def decode_codes(
    codes: Codes,
    W_dec: torch.Tensor,
    bias: torch.Tensor | None,
    base: torch.Tensor | None,
    out: torch.Tensor,
    threads: int,
) -> None:
    if not out.numel():
        return
    width = W_dec.shape[1]
    block = min(COLUMNS, triton.next_power_of_2(width))
    decode[(codes.rows, triton.cdiv(width, block))](
        codes.values, codes.indices, codes.offsets, W_dec, bias, base, out, width, BLOCK=block, num_warps=4
    )


@triton.jit
def decode(values, indices, offsets, table, bias, base, out, width: tl.int32, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < width
    total = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        total += tl.load(bias + at, mask=mask, other=0.0)
    if base is not None:
        total += tl.load(base + row * width + at, mask=mask, other=0.0)
    for i in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
        latent = tl.load(indices + i).to(tl.int64)
        total += tl.load(values + i) * tl.load(table + latent * width + at, mask=mask, other=0.0)
    tl.store(out + row * width + at, total, mask=mask)
