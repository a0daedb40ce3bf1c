# mypy: allow-untyped-defs, allow-incomplete-defs
"""`mask_counts` in Triton: integers are added atomically, where a mask is on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import as_bits, widen
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes

UNITS, ROWS, ENTRIES = 256, 16, 256


def supports(x: torch.Tensor | Codes) -> str | None:
    return None


def mask_counts(
    x: torch.Tensor | Codes, threshold: torch.Tensor, cells: CellLabels, counts: torch.Tensor, threads: int
) -> None:
    labels = (cells.offsets, cells.columns, cells.counts)
    if isinstance(x, Codes):
        n = len(x.values)
        if n:
            count_entries[(triton.cdiv(n, ENTRIES),)](
                x.values, x.indices, x.row_of(), threshold, *labels, counts, n, counts.shape[1],
                ENTRIES=ENTRIES, num_warps=4,
            )  # fmt: skip
        return
    rows, units = x.shape
    block = min(UNITS, triton.next_power_of_2(units))
    count_cells[(triton.cdiv(rows, ROWS), triton.cdiv(units, block))](
        as_bits(x), threshold, *labels, counts, rows, units, x.stride(0), counts.shape[1],
        KIND=FLOATS.index(x.dtype), ROWS=ROWS, UNITS=block, num_warps=4,
    )  # fmt: skip


@triton.jit
def count_cells(
    x, threshold, offsets, columns, pixels, sums, cells: tl.int32, units: tl.int32, row_stride: tl.int64,
    width: tl.int32, KIND: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    here = unit < units
    least = tl.load(threshold + unit, mask=here, other=float("inf"))
    to = sums + unit.to(tl.int64) * width
    first = tl.program_id(0) * ROWS
    for row in range(first, min(first + ROWS, cells)):
        bits = tl.load(x + row * row_stride + unit, mask=here, other=0)
        above = (widen(bits, KIND).to(tl.float32, bitcast=True) > least) & here
        if tl.max(above.to(tl.int32), 0) > 0:
            for e in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
                found = tl.full([UNITS], 0, tl.int64) + tl.load(pixels + e).to(tl.int64)
                tl.atomic_add(to + tl.load(columns + e), found, mask=above, sem="relaxed")


@triton.jit
def count_entries(
    values, indices, rows, threshold, offsets, columns, pixels, sums, n: tl.int64, width: tl.int32,
    ENTRIES: tl.constexpr,
):  # fmt: skip
    """A lane an entry of the codes, each with the labels of its cell."""
    at = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    here = at < n
    unit = tl.load(indices + at, mask=here, other=0)
    row = tl.load(rows + at, mask=here, other=0)
    above = here & (
        tl.load(values + at, mask=here, other=0.0) > tl.load(threshold + unit, mask=here, other=0.0)
    )
    begin = tl.load(offsets + row, mask=above, other=0)
    labels = tl.load(offsets + row + 1, mask=above, other=0) - begin
    to = sums + unit.to(tl.int64) * width
    for e in range(tl.max(labels, 0)):
        held = e < labels
        column = tl.load(columns + begin + e, mask=held, other=0)
        found = tl.load(pixels + begin + e, mask=held, other=0).to(tl.int64)
        tl.atomic_add(to + column, found, mask=held, sem="relaxed")
