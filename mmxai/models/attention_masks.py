"""Masks of attention calls: made explicit, cut to some queries, and with more keys blocked."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.models.attention import Call


def allowed(call: Call) -> torch.Tensor:
    """Which keys each query may read, bool `[B or 1, heads or 1, T, K]`."""
    if call.mask is not None:
        if call.mask.dtype == torch.bool:
            return call.mask
        return call.mask > torch.finfo(call.mask.dtype).min / 2
    queries, keys = call.query.shape[2], call.key.shape[2]
    ones = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=call.query.device)
    return ones.tril(keys - queries) if call.causal else ones


def explicit(call: Call) -> torch.Tensor | None:
    """A mask that says what `mask=None` does; still None where every query reads every key."""
    if call.mask is not None or not call.causal:
        return call.mask
    return allowed(call)


def block(call: Call, blocked: torch.Tensor) -> Call:
    """The call with keys blocked, bool `[B, heads or 1, T, K]`: what remains is shared out by the softmax.

    Raises ArgumentError where a query that read something would read nothing.
    """
    before = allowed(call)
    blocked = blocked.to(before.device)
    after = before & ~blocked
    if bool((before.any(-1) & ~after.any(-1)).any()):
        raise ArgumentError(
            "attention: got a query whose every key is blocked, expected at least one that stays (its own "
            "row, or the first); to take a head's whole output away, patch z with zeros"
        )
    if call.mask is None or call.mask.dtype == torch.bool:
        if not call.additive:
            return call._replace(mask=after, causal=False)
        lowest = torch.finfo(call.query.dtype).min
        mask = torch.zeros(after.shape, dtype=call.query.dtype, device=after.device)
        return call._replace(mask=mask.masked_fill(~after, lowest))
    lowest = torch.finfo(call.mask.dtype).min
    return call._replace(mask=call.mask.expand(after.shape).masked_fill(blocked.expand(after.shape), lowest))


def split_before(may: torch.Tensor, row: int) -> int:
    """The last row r <= `row` such that no row before r reads a row from r on. may: which rows (columns)
    each row reads, bool `[T, T]`.

    What is before r is then the same whatever becomes of the rest. Causal masks give `row` itself, masks
    that let a block of rows read each other (pictures in Gemma 3) where that block starts, full ones 0.
    """
    length = len(may)
    index = torch.arange(length, device=may.device)
    furthest = torch.where(may, index, -1).amax(1).cummax(0).values.cpu()
    for r in range(min(row, length - 1), 0, -1):
        if int(furthest[r - 1]) < r:
            return r
    return 0
