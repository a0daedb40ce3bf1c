"""Quantiles of the columns of a matrix: of a sample held in memory, or exact from passes over all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

_DIGIT = 8


def sample_quantiles(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Linear quantiles of the finite values of each column of float32 `x` `[N, D]`: `[len(levels), D]`."""
    finite = torch.isfinite(x)
    count = finite.sum(0)
    ordered = torch.where(finite, x, torch.inf).sort(0).values
    low, high, weight = _ranks(levels, count)
    return _between(ordered.gather(0, low), ordered.gather(0, high), weight, count)


def exact_quantiles(
    passes: Callable[[], Iterable[torch.Tensor]], width: int, levels: torch.Tensor
) -> torch.Tensor:
    """The same of rows that come in blocks `[n, width]`: float32 `[len(levels), width]`.

    `passes()` yields all rows, the same each time, in a dtype of 16 or 32 bits. A radix selection: each pass
    settles 8 bits of the order statistics wanted, two passes for 16 bits and four for 32; the first counts
    the finite values too. Holds a block and about 11 KiB a column and level, however many the rows.
    """
    dtype = None
    counts = torch.zeros((1, width, 1 << _DIGIT), dtype=torch.int64)
    for block in passes():
        dtype = block.dtype
        _count(block, torch.zeros((1, width), dtype=torch.int64), 8 * dtype.itemsize - _DIGIT, counts)
    if dtype is None:
        return torch.full((len(levels), width), torch.nan)
    finite = counts[0].sum(1)
    low, high, weight = _ranks(levels, finite)
    ranks = torch.stack([low, high], 1).flatten(0, 1)  # the two of a level side by side: often one search
    counts = counts.expand(len(ranks), -1, -1)
    prefix, below = torch.zeros_like(ranks), torch.zeros_like(ranks)
    for shift in range(8 * dtype.itemsize - _DIGIT, -1, -_DIGIT):
        if shift < 8 * dtype.itemsize - _DIGIT:
            counts = torch.zeros((*ranks.shape, 1 << _DIGIT), dtype=torch.int64)
            for block in passes():
                _count(block, prefix, shift, counts)
        upto = counts.cumsum(2)
        digit = (upto <= (ranks - below)[..., None]).sum(2, keepdim=True).clamp(max=(1 << _DIGIT) - 1)
        below += (upto.gather(2, digit) - counts.gather(2, digit))[..., 0]
        prefix = prefix << _DIGIT | digit[..., 0]
    values = _value_of(prefix, dtype)
    return _between(values[::2], values[1::2], weight, finite)


def _ranks(levels: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    last = (count - 1).clamp(min=0)
    at = levels[:, None] * last
    low = at.floor().to(torch.int64)
    return low, torch.minimum(low + 1, last), at - low


def _between(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    wide = a.double()  # the distance of two float32 may be no float32
    between = (wide + (b.double() - wide) * weight).to(torch.float32)
    return torch.where(count == 0, torch.nan, between)


def _count(block: torch.Tensor, prefix: torch.Tensor, shift: int, counts: torch.Tensor) -> None:
    """Add to `counts` `[T, D, 256]` the digit at `shift` of the finite values of the prefixes `[T, D]`."""
    keys, finite = _keys(block), torch.isfinite(block)
    place = (keys >> shift & (1 << _DIGIT) - 1) + (torch.arange(block.shape[1]) << _DIGIT)
    above = keys >> shift + _DIGIT
    for t in range(len(prefix)):
        if t == 0 or not torch.equal(prefix[t], prefix[t - 1]):  # else: as the one before
            chosen = place[finite & (above == prefix[t])]
            held = torch.bincount(chosen, minlength=counts[t].numel()).view_as(counts[t])
        counts[t] += held


def _keys(x: torch.Tensor) -> torch.Tensor:
    """Integers from 0 that sort as the values do; int64."""
    bits = 8 * x.dtype.itemsize
    signed = (x + 0.0).view({16: torch.int16, 32: torch.int32}[bits]).to(torch.int64)  # -0.0 as 0.0
    half = 1 << bits - 1
    return torch.where(signed < 0, -1 - (signed + half), signed) + half


def _value_of(keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values of `_keys`, as float32."""
    bits = 8 * dtype.itemsize
    half = 1 << bits - 1
    signed = keys - half
    signed = torch.where(signed < 0, -1 - signed - half, signed)
    return signed.to({16: torch.int16, 32: torch.int32}[bits]).view(dtype).to(torch.float32)
