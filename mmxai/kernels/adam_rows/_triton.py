# mypy: allow-untyped-defs, allow-incomplete-defs
"""`adam_rows` in Triton: a program a row, or a stretch of one where no row's norm is wanted."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MOST = 8192


def supports(w: torch.Tensor) -> str | None:
    return None


def adam_rows(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    fixed: tuple[float, ...],
    scale: float | torch.Tensor,
    unit: bool,
    threads: int,
) -> None:
    if not w.numel():
        return
    lr, beta1, beta2, eps, correction1, correction2, decay = fixed
    if not isinstance(scale, torch.Tensor):
        scale = torch.full((1,), scale, device=w.device)
    rows, width = w.shape
    block = min(MOST, triton.next_power_of_2(width))
    pieces = triton.cdiv(width, block)
    whole = unit and pieces == 1
    adam[(rows, pieces)](
        w, g, m, v, width, lr / correction1, beta1, 1 - beta1, beta2, 1 - beta2, eps, correction2**-0.5,
        scale, 1 - lr * decay, UNIT=whole, BLOCK=block, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    if unit and not whole:
        norms = w.norm(dim=1, keepdim=True)
        w.div_(torch.where((norms > 0) & ~scale.isnan(), norms, 1.0))


@triton.jit
def adam(
    w, g, m, v, width: tl.int32, rate: tl.float32, old1: tl.float32, new1: tl.float32, old2: tl.float32,
    new2: tl.float32, eps: tl.float32, root: tl.float32, scale, kept: tl.float32,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    by = tl.load(scale + tl.zeros([BLOCK], tl.int32))
    mask = (at < width) & (by == by)
    at += tl.program_id(0).to(tl.int64) * width
    gradient = tl.load(g + at, mask=mask, other=0.0) * by
    first = tl.load(m + at, mask=mask, other=0.0) * old1 + gradient * new1
    second = tl.load(v + at, mask=mask, other=0.0) * old2 + gradient * gradient * new2
    tl.store(m + at, first, mask=mask)
    tl.store(v + at, second, mask=mask)
    moved = tl.load(w + at, mask=mask, other=0.0) * kept - rate * first / (tl.sqrt(second) * root + eps)
    if UNIT:
        moved = tl.where(mask, moved, 0.0)
        squares = tl.sum(moved * moved, 0)
        moved /= tl.where(squares > 0, tl.sqrt(squares), 1.0)
    tl.store(w + at, moved, mask=mask)
