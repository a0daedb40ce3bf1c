"""ROC-AUC of every unit for every label, from two passes in bounded memory.

The first pass counts every unit's values by key, an integer that orders as the values do; the second looks
up each value's mid-rank and adds the ranks by label, a matrix product: the area under the ROC curve is the
Mann-Whitney statistic (Hanley and McNeil 1982), ties counting half. Values stored in 16 bits have at most
65,536 keys, so that this is exact. Of float32 values (and heads' norms) a key keeps the leading bits that
memory allows, and what ties it makes of unequal values bounds the error: `error`.
"""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import ArgumentError

_FEWEST_BITS, _MOST_BITS = 16, 20
_COUNT_BYTES = 14  # a count, the same as a rank, a count of the group that follows, two flags


def key_bits(dtype: torch.dtype, units: int, memory: int) -> int:
    """How many bits a key has: 16 where that is exact, else as many as `memory` bytes hold of the counts."""
    if dtype in (torch.bfloat16, torch.float16):
        return 16
    room = max(1, memory // (_COUNT_BYTES * max(1, units)))
    return min(_MOST_BITS, max(_FEWEST_BITS, room.bit_length() - 1))


def groups(units: int, memory: int) -> list[range]:
    """Units whose counts fit in `memory` bytes together: each group costs a pass."""
    each = memory // (_COUNT_BYTES << _FEWEST_BITS)
    if each < 1:
        raise ArgumentError(
            f"AUC: got memory={memory:,} bytes, expected at least {_COUNT_BYTES << _FEWEST_BITS:,}, the "
            "counts of one unit"
        )
    return [range(start, min(units, start + each)) for start in range(0, units, each)]


def keys_of(x: torch.Tensor, dtype: torch.dtype, bits: int) -> np.ndarray:
    """int64 `[U, N]` of float32 `[N, U]`: integers below 2**bits in the order of the values."""
    flat = np.ascontiguousarray((x + 0.0).T.numpy())  # adding 0 makes one key of both zeros
    if dtype == torch.float16:
        raw = flat.astype(np.float16).view(np.uint16)
        return np.where(raw >> 15, ~raw, raw | np.uint16(0x8000)).astype(np.int64)
    raw = flat.view(np.uint32)
    ordered = np.where(raw >> 31, ~raw, raw | np.uint32(0x80000000))
    return (ordered >> np.uint32(32 - bits)).astype(np.int64)


class Ranks:
    """Of one group of units: counts by key, then mid-ranks, then their sums by label."""

    def __init__(self, units: range, labels: int, dtype: torch.dtype, bits: int):
        self.units, self._dtype, self._bits = units, dtype, bits
        self.exact = dtype in (torch.bfloat16, torch.float16)
        self._counts = np.zeros((len(units), 1 << bits), np.int32)
        # Keys that hold a value with further bits: only there ties may be of unequal values.
        self._mixed = np.zeros((0 if self.exact else len(units), 1 << bits), bool)
        self._rank: np.ndarray | None = None
        self._sums = torch.zeros(len(units), labels, dtype=torch.float64)
        self._tied = torch.zeros(len(units), labels, dtype=torch.float64)
        self.rows = 0

    def count(self, x: torch.Tensor) -> None:
        """First pass: labelled rows, float32 `[N, all units]`."""
        mine = x[:, self.units.start : self.units.stop]
        keys = keys_of(mine, self._dtype, self._bits)
        for own, key in zip(self._counts, keys, strict=True):
            np.add.at(own, key, 1)
        if not self.exact:
            more = np.ascontiguousarray(mine.T.numpy()).view(np.uint32) << np.uint32(self._bits)
            for mixed, key, bits in zip(self._mixed, keys, more, strict=True):
                mixed[key[bits != 0]] = True
        self.rows += len(x)

    def rank(self, x: torch.Tensor, labels: np.ndarray) -> None:
        """Second pass: the same rows again, with their labels, bool `[N, K]`."""
        if not len(x):
            return
        keys = keys_of(x[:, self.units.start : self.units.stop], self._dtype, self._bits)
        y = torch.from_numpy(np.ascontiguousarray(labels, np.float32))
        if self._rank is None:
            self._rank = _mid_ranks(self._counts)
        level = torch.from_numpy(np.stack([r[k] for r, k in zip(self._rank, keys, strict=True)]))
        self._sums += (level @ y).double()
        if not self.exact:
            own = [np.where(m[k], c[k], 1) for c, m, k in zip(self._counts, self._mixed, keys, strict=True)]
            self._tied += (torch.from_numpy(np.stack(own).astype(np.float32)) @ y).double()

    def auc(self, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """AUC float32 `[units, K]` and by how much it may be off, given int64 `[K]` rows with each label.

        NaN where all labelled rows have a label, or none.
        """
        n, p = float(self.rows), positive.double()
        pairs = p * (n - p)
        # Sums are of (mid-rank - n / 2) / n: centred, so that float32 products keep their digits.
        area = (n * self._sums + p * n / 2 - p.square() / 2) / pairs
        off = (0.5 * (self._tied - p).clamp(min=0) / pairs).clamp(max=1.0)
        none = pairs == 0
        return (
            torch.where(none, torch.nan, area).float(),
            torch.where(none, torch.nan, off).float(),
        )


def _mid_ranks(counts: np.ndarray) -> np.ndarray:
    """float32 like `counts`: (rows below + half of those equal) / rows, less a half."""
    out = np.empty(counts.shape, np.float32)
    for own, made in zip(counts, out, strict=True):
        below = np.cumsum(own, dtype=np.float64)
        made[:] = (below - 0.5 * own) / below[-1] - 0.5
    return out
