# mypy: allow-untyped-defs, allow-incomplete-defs
"""`unembed_topk` in Triton: the products are torch's; a program a row takes what is wanted of a tile."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from mmxai.kernels._tl import MISSING, sort_key
from mmxai.kernels.unembed_topk._job import Job, UnembedTopk
from mmxai.kernels.unembed_topk._tiles import Online, in_tiles

MOST = 256
ROWS, TOKENS, STEP = 2048, 4096, 1024
"""A tile of 32 MiB stays in the second-level cache of a large GPU."""


def supports(job: Job, k: int) -> str | None:
    return None if k <= MOST else f"k = {k}, it keeps at most {MOST}"


def unembed_topk(job: Job, out: UnembedTopk, threads: int) -> None:
    in_tiles(job, out, _Rows, ROWS, TOKENS)


class _Rows(Online):
    def __init__(self, job: Job, floors: torch.Tensor, finals: torch.Tensor, k: int):
        rows, device = len(finals), finals.device
        self.job, self.floors, self.finals, self.k = job, floors, finals, k
        begun = torch.tensor([-math.inf, 0, 0, -math.inf, 0], dtype=torch.float64, device=device)
        self.sums = begun.repeat(rows, 1)
        self.ranks = torch.zeros(floors.shape, dtype=torch.int64, device=device)
        held = max(2, triton.next_power_of_2(k))
        self.keys = torch.full((rows, held), MISSING.value, dtype=torch.int64, device=device)

    def tile(self, products: torch.Tensor, first: int, bias: torch.Tensor | None) -> None:
        rows, width = products.shape
        held = self.keys.shape[1]
        lens_rows[(rows,)](
            products, bias, self.finals, self.floors, self.sums, self.keys, self.ranks, width, first,
            self.floors.shape[1], self.job.scale, self.job.softcap or 0.0,
            COMPARED=self.job.reference is not None, CAPPED=self.job.softcap is not None, K=held,
            STEP=max(held, min(STEP, triton.next_power_of_2(width))), num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self.keys[:, : self.k]
        order = (keys >> 32).int()
        values = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
        return values, (0xFFFFFFFF - (keys & 0xFFFFFFFF)).int()


@triton.jit
def _logits(products, bias, row, at, width, scale, softcap, CAPPED: tl.constexpr):
    """float32 logits of a row at places `at` of the tile; past its end -inf."""
    here = at < width
    x = scale * tl.load(products + row * width + at, mask=here, other=0.0)
    if bias is not None:
        x += tl.load(bias + at, mask=here, other=0.0)
    if CAPPED:
        e = tl.exp(-2.0 * tl.abs(x / softcap))
        size = softcap * (1.0 - e) / (1.0 + e)
        x = tl.where(x < 0, -size, tl.where(x == x, size, x))
    return tl.where(here, x, float("-inf"))


@triton.jit
def _most(x, before):
    """The largest that is a number, of these and of one before, float64."""
    now = tl.max(tl.where(x == x, x, float("-inf")), 0).to(tl.float64)
    return tl.where(now > before, now, before)


@triton.jit
def _shrunk(before, now):
    """By how much sums relative to `before` shrink when they are taken relative to `now`."""
    return tl.where(before == now, 1.0, tl.exp((before - now).to(tl.float32)).to(tl.float64))


@triton.jit
def _shares(x):
    """exp of x <= 0; 0 of what is too small or NaN."""
    return tl.where(x > -86.0, tl.exp(x), 0.0)


@triton.jit
def lens_rows(
    products, bias, finals, floors, sums, keys, ranks, width: tl.int32, first: tl.int32, targets: tl.int32,
    scale: tl.float32, softcap: tl.float32, COMPARED: tl.constexpr, CAPPED: tl.constexpr, K: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    none = float("-inf")
    mine = sums + row * 5
    most, whole, turned = tl.load(mine), tl.load(mine + 1), tl.load(mine + 2)
    final_most, apart = tl.load(mine + 3), tl.load(mine + 4)
    final = row
    if COMPARED:
        final = tl.maximum(tl.load(finals + row), 0)  # what a row gets that is compared with none is not read
    rank = tl.arange(0, K)
    run = tl.load(keys + row * K + rank)
    for start in range(0, width, STEP):
        at = start + tl.arange(0, STEP)
        x = _logits(products, bias, row, at, width, scale, softcap, CAPPED)
        now = _most(x, most)
        by = _shrunk(most, now)
        turned = tl.where(most == none, 0.0, (turned + whole * (most - now)) * by)
        most = now
        off = x - now.to(tl.float32)
        e = _shares(off)
        whole = whole * by + tl.sum(e, 0).to(tl.float64)
        turned += tl.sum(e * tl.where(off > -86.0, off, -86.0), 0).to(tl.float64)
        if COMPARED:
            f = _logits(products, bias, final, at, width, scale, softcap, CAPPED)
            final_now = _most(f, final_most)
            share = _shares(f - final_now.to(tl.float32))
            terms = tl.where(share > 0, share * (f - x), 0.0)
            apart = apart * _shrunk(final_most, final_now) + tl.sum(terms, 0).to(tl.float64)
            final_most = final_now
        key = sort_key(x, first + at)
        # A NaN is larger than anything, and one is as large as another.
        nan = (0x7FFFFFFF << 32) | (0xFFFFFFFF - (first + at).to(tl.int64))
        key = tl.where(at < width, tl.where(x == x, key, nan), -(1 << 63))
        if tl.max(key, 0) > tl.min(run, 0):
            run = tl.topk(tl.reshape(tl.join(run, tl.topk(key, K)), [2 * K]), K)
        for t in range(targets):
            floor = tl.load(floors + row * targets + t)
            larger = tl.sum((x > floor).to(tl.int32), 0).to(tl.int64)
            place = ranks + row * targets + t
            tl.store(place, tl.load(place) + larger)
    tl.store(keys + row * K + rank, run)
    tl.store(mine, most)
    tl.store(mine + 1, whole)
    tl.store(mine + 2, turned)
    tl.store(mine + 3, final_most)
    tl.store(mine + 4, apart)
