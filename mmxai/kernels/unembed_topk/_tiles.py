"""`unembed_topk` tile by tile: a product of some rows and some tokens at a time, by torch, of which a backend
takes what is wanted before the next overwrites it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from mmxai.kernels.unembed_topk._job import Job, UnembedTopk

_MIXED = "dtype_out" in torch.ops.aten.mm.overloads()
"""Does this torch multiply halves into float32?"""


class Online(Protocol):
    """What a backend has of some rows."""

    sums: torch.Tensor
    """float64 `[R, 5]`, `LensSums` of csrc/core/unembed.h."""
    ranks: torch.Tensor
    """int64 `[R, T]`"""

    def tile(self, products: torch.Tensor, first: int, bias: torch.Tensor | None) -> None:
        """Takes float32 `[R, n]`, states times the weights of tokens `first` to `first + n`."""
        ...

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 and int32 `[R, k]`, when all tiles were met."""
        ...


Begin = Callable[[Job, torch.Tensor, torch.Tensor, int], Online]
"""From a job; the floors float32 `[R, T]` that a logit must pass to count in a rank; of each row the one of
these R whose distribution it is compared with, int64 `[R]`, -1 for none; and k."""


def in_tiles(job: Job, out: UnembedTopk, begin: Begin, rows: int, tokens: int) -> None:
    """Rows that are compared with the same one go together, for that one's shares serve them all."""
    device, vocabulary, k = job.states.device, len(job.weight), out.values.shape[1]
    everything = torch.arange(len(job.states), device=device)
    order = everything if job.reference is None else job.reference.argsort(stable=True)
    buffer = torch.empty(0, device=device)
    for mine in order.split(rows):
        extra, finals = _compared(job, mine)
        x = _together(job, mine, extra)
        if buffer.numel() < len(x) * min(tokens, vocabulary):
            buffer = torch.empty(len(x) * min(tokens, vocabulary), device=device)
        wanted, floors = job.wanted(mine)
        rest = floors.new_full((len(extra), floors.shape[1]), torch.nan)
        online = begin(job, torch.cat([floors, rest]), finals, k)
        for first in range(0, vocabulary, tokens):
            weight = job.weight[first : first + tokens]
            products = buffer[: len(x) * len(weight)].view(len(x), len(weight))
            multiply(x, weight, products)
            bias = None if job.bias is None else job.bias[first : first + tokens]
            online.tile(products, first, bias)
            _take_own(job, mine, products, first, wanted, floors, online.ranks)
        _finish(out, mine, online, finals, wanted)


def multiply(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """float32 x . weight^T; a GPU multiplies halves of one type as they are, and adds in float32."""
    if x.device.type == "cuda" and x.dtype == weight.dtype != torch.float32 and _MIXED:
        torch.mm(x, weight.T, out_dtype=torch.float32, out=out)
    else:
        torch.mm(x.float(), weight.float().T, out=out)


def _compared(job: Job, mine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States that these rows are compared with and are none of them, and for all of both whom with."""
    n = len(mine)
    if job.reference is None:
        return job.states[:0], mine.new_full((n,), -1)
    rows, which = job.reference[mine].unique(return_inverse=True)
    place = mine.new_full((len(rows),), -1)
    if job.final is None:
        sorted_rows, at = mine.sort()
        near = torch.searchsorted(sorted_rows, rows).clamp(max=n - 1)
        place = at[near].where(sorted_rows[near] == rows, -1)
    missing = place < 0
    extra = (job.states if job.final is None else job.final)[rows[missing]]
    place[missing] = torch.arange(n, n + len(extra), device=mine.device)
    return extra, torch.cat([place[which], mine.new_full((len(extra),), -1)])


def _take_own(
    job: Job,
    mine: torch.Tensor,
    products: torch.Tensor,
    first: int,
    wanted: torch.Tensor,
    floors: torch.Tensor,
    ranks: torch.Tensor,
) -> None:
    """Targets in this tile: their logits are the product's own, as those of the largest, and none is larger
    than itself, though the product adds in another order than the floor did."""
    if not wanted.shape[1]:
        return
    targets = job.targets[mine]
    at = (targets - first).clamp(0, products.shape[1] - 1)
    here = (targets >= first) & (targets < first + products.shape[1])
    bias = None if job.bias is None else job.bias[first + at]
    own = job.settled(products[: len(mine)].gather(1, at), bias)
    wanted.copy_(own.where(here, wanted))
    ranks[: len(mine)] -= (here & (own > floors)).long()


def _together(job: Job, mine: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
    states = job.states[mine]
    if job.states.device.type == "cuda" and states.dtype == extra.dtype == job.weight.dtype:
        return torch.cat([states, extra])
    return torch.cat([states.float(), extra.float()])


def _finish(
    out: UnembedTopk, mine: torch.Tensor, online: Online, finals: torch.Tensor, wanted: torch.Tensor
) -> None:
    n = len(mine)
    most, whole, turned, _, apart = online.sums.unbind(1)
    values, ids = online.best()
    norm = (most + whole.log()).where(most < torch.inf, most).masked_fill(values[:, 0].isnan(), torch.nan)
    out.values[mine], out.ids[mine], out.logsumexp[mine] = values[:n], ids[:n], norm[:n].float()
    entropy = (whole.log() - turned / whole).where(norm.isfinite(), torch.nan)
    out.entropy[mine] = entropy[:n].float()
    out.target_logits[mine] = wanted
    out.target_ranks[mine] = online.ranks[:n].clamp(min=0).masked_fill(wanted.isnan(), -1)
    if out.kl is not None:
        final = finals[:n]
        out.kl[mine] = (apart[:n] / whole[final] + norm[:n] - norm[final]).float()
