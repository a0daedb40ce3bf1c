# mypy: allow-untyped-defs, allow-incomplete-defs
"""`topk_rows` in Triton: a program a row, in steps; one without any of the best costs a maximum."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import MISSING, as_bits, key_place, widen

MOST = 256


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None if values.shape[1] <= MOST else f"k = {values.shape[1]}, it keeps at most {MOST}"


def topk_rows(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    values: torch.Tensor,
    indices: torch.Tensor,
    magnitude: bool,
    threads: int,
) -> None:
    rows, width = x.shape
    k = max(2, triton.next_power_of_2(values.shape[1]))
    step = max(k, min(1024, triton.next_power_of_2(width)))
    best[(rows,)](
        as_bits(x), bias, as_bits(values), indices, width, x.stride(0), values.shape[1],
        KIND=FLOATS.index(x.dtype), MAGNITUDE=magnitude, K=k, STEP=step, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def best(
    x, bias, values, indices, width: tl.int32, row_stride: tl.int64, k: tl.int32,
    KIND: tl.constexpr, MAGNITUDE: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = x + row * row_stride
    run = tl.full([K], MISSING, tl.int64)
    for start in range(0, width, STEP):
        at = start + tl.arange(0, STEP)
        u = widen(tl.load(base + at, mask=at < width, other=0), KIND)
        if bias is not None:
            u = _plus(u, bias, at, width)
        size = u & 0x7FFFFFFF
        if MAGNITUDE:
            u = size
        # A NaN is larger than anything, and one is as large as another; zeros are equal.
        order = tl.where(size == 0, 0, u ^ ((u >> 31) & 0x7FFFFFFF))
        order = tl.where(size > 0x7F800000, 0x7FFFFFFF, order)
        key = (order.to(tl.int64) << 32) | (0xFFFFFFFF - at.to(tl.int64))
        key = tl.where(at < width, key, MISSING)
        if tl.max(key, 0) > tl.min(run, 0):
            run = tl.topk(tl.reshape(tl.join(run, tl.topk(key, K)), [2 * K]), K)
    rank = tl.arange(0, K)
    place = key_place(run)
    mask = rank < k
    tl.store(indices + row * k + rank, place.to(tl.int32), mask=mask)
    best_bits = tl.load(base + place, mask=mask, other=0)
    if bias is not None:
        best_bits = _plus(best_bits, bias, place, width)
    tl.store(values + row * k + rank, best_bits, mask=mask)


@triton.jit
def _plus(u, bias, at, width):
    """Bits of float32 plus the bias of columns `at`."""
    added = tl.load(bias + at, mask=(at >= 0) & (at < width), other=0.0)
    return (u.to(tl.float32, bitcast=True) + added).to(tl.int32, bitcast=True)
