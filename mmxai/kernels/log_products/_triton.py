# mypy: allow-untyped-defs, allow-incomplete-defs
"""`log_products` in Triton: a program a unit and some words, its products split as in C++."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

WORDS, ROWS = 512, 256


def supports(p: torch.Tensor) -> str | None:
    return None


def log_products(
    p: torch.Tensor,
    scale: float,
    norms: torch.Tensor | None,
    tops: torch.Tensor,
    weights: torch.Tensor,
    floor: float,
    marginal: float,
    out: torch.Tensor,
    threads: int,
) -> bool:
    words, k = p.shape[1], tops.shape[1]
    offsets = (1 - weights.double() + floor).float()
    # Terms whose product stays in float32's range, as none is below the least of the offsets.
    together = min(60, int(86 / -math.log(min(float(offsets.min()) if k else 0.5, 0.5))))
    block = min(WORDS, triton.next_power_of_2(words))
    log_sums[(len(tops), triton.cdiv(words, block))](
        p, norms, tops, weights, offsets, out, words, k, max(1, together), p.stride(0), scale,
        WORDS=block, num_warps=4,
    )  # fmt: skip
    if marginal:
        for part in out.split(WORDS, 1):
            part -= marginal * (part.logsumexp(0) - math.log(len(part)))
    return norms is not None or bool(((p >= 0) & (p <= 1)).all())


def log_norms(x: torch.Tensor, scale: float, out: torch.Tensor, threads: int) -> None:
    for rows, to in zip(x.split(ROWS), out.split(ROWS), strict=True):
        torch.logsumexp(scale * rows, 1, out=to)


@triton.jit
def log_sums(
    p, norms, tops, weights, offsets, out, words: tl.int32, k: tl.int32, together: tl.int32,
    row_stride: tl.int64, scale: tl.float32, WORDS: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    here = word < words
    product = tl.full([WORDS], 1.0, tl.float32)
    exponent = tl.zeros([WORDS], tl.int32)
    for first in range(0, k, together):
        for j in range(first, min(first + together, k)):
            row = tl.load(tops + unit * k + j).to(tl.int64)
            value = tl.load(p + row * row_stride + word, mask=here, other=1.0)
            if norms is not None:
                value = tl.exp(tl.minimum(scale * value - tl.load(norms + row), 0.0))
            product *= tl.load(offsets + j) + tl.load(weights + j) * value
        bits = product.to(tl.int32, bitcast=True)
        exponent += (bits >> 23) - 127
        product = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    total = tl.log(product) + exponent.to(tl.float32) * 0.6931471805599453
    tl.store(out + unit * words + word, total, mask=here)
