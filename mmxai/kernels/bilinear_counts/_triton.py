# mypy: allow-untyped-defs, allow-incomplete-defs
"""`bilinear_counts` in Triton: a program a block between centres and some units; 64 pixels at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import as_bits, widen
from mmxai.kernels.cells import BlockLabels

UNITS = 32


def supports(grids: list[torch.Tensor]) -> str | None:
    return None


def bilinear_counts(
    grids: list[torch.Tensor],
    threshold: torch.Tensor,
    labels: list[BlockLabels],
    counts: torch.Tensor,
    threads: int,
) -> None:
    units = len(threshold)
    block = min(UNITS, triton.next_power_of_2(units))
    for x, b in zip(grids, labels, strict=True):
        entries = (b.entries.offsets, b.entries.columns, b.entries.counts)
        geometry = (b.row_starts, b.col_starts, b.row_weights, b.col_weights)
        # A product and a sum in one instruction would round once, where the specification rounds twice.
        count_blocks[(b.entries.rows, triton.cdiv(units, block))](
            as_bits(x), threshold, *geometry, *entries, b.starts, b.bits, counts, units, x.stride(0),
            counts.shape[1], b.grid[0], b.grid[1], KIND=FLOATS.index(x.dtype), UNITS=block, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit
def count_blocks(
    x, threshold, row_starts, col_starts, row_weights, col_weights, offsets, columns, pixels, starts, bits,
    sums, units: tl.int32, row_stride: tl.int64, width: tl.int32, grid_rows: tl.int32, grid_cols: tl.int32,
    KIND: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    begin, end = tl.load(offsets + block), tl.load(offsets + block + 1)
    i, j = block // (grid_cols + 1), block % (grid_cols + 1)
    upper, lower = tl.maximum(i - 1, 0) * grid_cols, tl.minimum(i, grid_rows - 1) * grid_cols
    before, after = tl.maximum(j - 1, 0), tl.minimum(j, grid_cols - 1)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    here = unit < units
    least = tl.load(threshold + unit, mask=here, other=float("inf"))
    a = _value(x + (upper + before) * row_stride + unit, here, KIND)
    b = _value(x + (upper + after) * row_stride + unit, here, KIND)
    c = _value(x + (lower + before) * row_stride + unit, here, KIND)
    d = _value(x + (lower + after) * row_stride + unit, here, KIND)
    corners = (a > least).to(tl.int32) + (b > least).to(tl.int32)
    corners += (c > least).to(tl.int32) + (d > least).to(tl.int32)
    every, some = here & (corners == 4), here & (corners > 0) & (corners < 4)
    to = sums + unit.to(tl.int64) * width
    if tl.max(every.to(tl.int32), 0) > 0:
        for e in range(begin, end):
            found = tl.full([UNITS], 0, tl.int64) + tl.load(pixels + e).to(tl.int64)
            tl.atomic_add(to + tl.load(columns + e), found, mask=every, sem="relaxed")
    if tl.max(some.to(tl.int32), 0) > 0:
        top, left = tl.load(row_starts + i), tl.load(col_starts + j)
        height, across = tl.load(row_starts + i + 1) - top, tl.load(col_starts + j + 1) - left
        row_bytes = (across + 7) // 8
        size = (height * row_bytes + 7) // 8 * 8
        first = tl.load(starts + block)
        for chunk in range(0, size, 8):
            lane = tl.arange(0, 64)
            byte = chunk + lane // 8
            row, col = byte // row_bytes, byte % row_bytes * 8 + lane % 8
            inside = (row < height) & (col < across)
            wy = tl.load(row_weights + top + row, mask=inside, other=0.0)[None, :]
            wx = tl.load(col_weights + left + col, mask=inside, other=0.0)[None, :]
            over = a[:, None] + wx * (b - a)[:, None]
            under = c[:, None] + wx * (d - c)[:, None]
            above = (over + wy * (under - over) > least[:, None]) & some[:, None]
            for e in range(begin, end):
                held = tl.load(bits + first + (e - begin) * size + byte).to(tl.int32)
                held = (held >> (lane % 8)) & 1  # clear where no pixel is
                found = tl.sum(above.to(tl.int32) * held[None, :], 1).to(tl.int64)
                tl.atomic_add(to + tl.load(columns + e), found, mask=found > 0, sem="relaxed")


@triton.jit
def _value(at, here, KIND: tl.constexpr):
    return widen(tl.load(at, mask=here, other=0), KIND).to(tl.float32, bitcast=True)
