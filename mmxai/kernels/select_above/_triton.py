# mypy: allow-untyped-defs, allow-incomplete-defs
"""`select_above` in Triton: rows are counted, then written where the counts before them end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

STEP = 1024


def supports(x: torch.Tensor) -> str | None:
    return None


def select_above(
    x: torch.Tensor, cut: torch.Tensor | float, bias: torch.Tensor | None, threads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cuts, one = (cut, 0.0) if isinstance(cut, torch.Tensor) else (None, cut)
    rows, width = x.shape
    counts = torch.empty(rows, dtype=torch.int64, device=x.device)
    block = min(STEP, triton.next_power_of_2(width))
    given = (x, cuts, bias, counts)
    above[(rows,)](*given, None, None, None, one, width, x.stride(0), STEP=block, num_warps=4)
    ends = counts.cumsum(0)
    values = torch.empty(int(ends[-1]), device=x.device)
    indices = torch.empty(len(values), dtype=torch.int32, device=x.device)
    above[(rows,)](*given, ends, values, indices, one, width, x.stride(0), STEP=block, num_warps=4)
    return values, indices, counts


@triton.jit
def above(
    x, cuts, bias, counts, ends, values, indices, one: tl.float32, width: tl.int32, row_stride: tl.int64,
    STEP: tl.constexpr,
):  # fmt: skip
    """Without `ends` it counts, with them it writes."""
    row = tl.program_id(0).to(tl.int64)
    held = tl.full([], 0, tl.int64)
    if ends is not None:
        held = tl.load(ends + row) - tl.load(counts + row)
    for start in range(0, width, STEP):
        at = start + tl.arange(0, STEP)
        mask = at < width
        value = tl.load(x + row * row_stride + at, mask=mask, other=0.0)
        if bias is not None:
            value += tl.load(bias + at, mask=mask, other=0.0)
        cut = one
        if cuts is not None:
            cut = tl.load(cuts + at, mask=mask, other=0.0)
        found = ((value > cut) & mask).to(tl.int32)
        if ends is not None:
            place = held + tl.cumsum(found, 0) - 1
            tl.store(values + place, value, mask=found > 0)
            tl.store(indices + place, at, mask=found > 0)
        held += tl.sum(found, 0)
    if ends is None:
        tl.store(counts + row, held)
