"""`Codes`: which latents of a sparse autoencoder are active in each row, and how strongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from mmxai.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Codes:
    """Compressed sparse rows: row b owns the entries `offsets[b]` to `offsets[b + 1]`.

    `values` float32 `[n]`, the activations; `indices` int32 `[n]`, their latents, each at most once a row, in
    any order; `offsets` int64 `[B + 1]`; `width` M, the number of latents; `fixed_k` K where every row has K
    entries. A value may be 0: an entry that adds nothing and is kept for its gradient.
    """

    values: torch.Tensor
    indices: torch.Tensor
    offsets: torch.Tensor
    width: int
    fixed_k: int | None = None

    def __post_init__(self) -> None:
        kinds = (self.values.dtype, self.indices.dtype, self.offsets.dtype)
        if kinds != (torch.float32, torch.int32, torch.int64):
            raise ArgumentError(f"codes: got {kinds}, expected float32 values, int32 indices, int64 offsets")
        shapes = (self.values.ndim, self.indices.ndim, self.offsets.ndim)
        if shapes != (1, 1, 1) or len(self.values) != len(self.indices) or len(self.offsets) < 1:
            raise ArgumentError(
                f"codes: got values {tuple(self.values.shape)}, indices {tuple(self.indices.shape)}, offsets "
                f"{tuple(self.offsets.shape)}, expected (n,), (n,), (rows + 1,)"
            )
        if not 1 <= self.width < 2**31:
            raise ArgumentError(f"codes: got width {self.width}, expected a number of latents below 2^31")

    @classmethod
    def fixed(cls, values: torch.Tensor, indices: torch.Tensor, width: int) -> Codes:
        """K entries a row: `values` and `indices` `[B, K]`, as `topk_rows` gives them."""
        if values.ndim != 2 or values.shape != indices.shape:
            raise ArgumentError(
                f"codes: got values {tuple(values.shape)} and indices {tuple(indices.shape)}, expected (B, K)"
            )
        rows, k = values.shape
        offsets = torch.arange(rows + 1, dtype=torch.int64, device=values.device) * k
        return cls(values.reshape(-1), indices.reshape(-1), offsets, width, k)

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> Codes:
        """The entries of `x` `[B, M]` that are not 0, by index."""
        held = x != 0
        offsets = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(held.sum(1), 0, out=offsets[1:])
        return cls(x[held].float(), held.nonzero()[:, 1].to(torch.int32), offsets, x.shape[1])

    @classmethod
    def cat(cls, pieces: Sequence[Codes]) -> Codes:
        """The rows of `pieces` after one another."""
        if not pieces or len({p.width for p in pieces}) != 1:
            raise ArgumentError(f"codes: got widths {[p.width for p in pieces]}, expected one width")
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece.values))
        offsets = [p.offsets[1:] + start for p, start in zip(pieces, starts[:-1], strict=True)]
        ks = {p.fixed_k for p in pieces}
        return cls(
            torch.cat([p.values for p in pieces]),
            torch.cat([p.indices for p in pieces]),
            torch.cat([pieces[0].offsets[:1], *offsets]),
            pieces[0].width,
            ks.pop() if len(ks) == 1 else None,
        )

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def density(self) -> float:
        """Entries over B x M."""
        return len(self.values) / max(1, self.rows * self.width)

    def counts(self) -> torch.Tensor:
        """Entries of each row, int64 `[B]`."""
        return self.offsets.diff()

    def row_of(self) -> torch.Tensor:
        """The row of each entry, int64 `[n]`."""
        rows = torch.arange(self.rows, device=self.values.device)
        return rows.repeat_interleave(self.counts(), output_size=len(self.values))

    def dense(self) -> torch.Tensor:
        """float32 `[B, M]`, 0 where there is no entry."""
        return self.spread(self.values)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Other `values` `[n]` in the places of the entries: `[B, M]` of their dtype."""
        out = values.new_zeros(self.rows, self.width)
        if self.fixed_k is not None:
            at = self.indices.view(self.rows, self.fixed_k).long()
            return out.scatter_(1, at, values.view(self.rows, self.fixed_k))
        out.view(-1)[self._cells()] = values
        return out

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """What `x` `[B, M]` holds in the places of the entries, `[n]`."""
        if self.fixed_k is not None:
            return x.gather(1, self.indices.view(self.rows, self.fixed_k).long()).view(-1)
        return x.take(self._cells())

    def blocks(self, rows: int) -> Iterator[tuple[slice, slice, Codes]]:
        """The codes of every `rows` rows: (which rows, which entries, their codes)."""
        marks = [*range(0, self.rows, rows), self.rows]
        if self.fixed_k is None:
            at = [*self.offsets[:-1:rows].tolist(), len(self.values)]
        else:
            at = [mark * self.fixed_k for mark in marks]
        for (first, last), (begin, end) in zip(pairwise(marks), pairwise(at), strict=True):
            entries = slice(begin, end)
            offsets = self.offsets[first : last + 1] - begin
            part = Codes(self.values[entries], self.indices[entries], offsets, self.width, self.fixed_k)
            yield slice(first, last), entries, part

    def select(self, keep: torch.Tensor) -> Codes:
        """The entries where `keep`, bool `[n]`."""
        kept = torch.zeros(len(keep) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, 0, out=kept[1:])
        return Codes(self.values[keep], self.indices[keep], kept[self.offsets], self.width)

    def sum_by_latent(self, values: torch.Tensor) -> torch.Tensor:
        """`values` `[n]`, one an entry, summed over the entries of each latent: float32 `[M]`."""
        # In float64 the order of the sum, which a GPU does not fix, hardly shows.
        if not values.is_cuda:
            return torch.bincount(self.indices, weights=values.double(), minlength=self.width).float()
        sums = torch.zeros(self.width, dtype=torch.float64, device=values.device)
        return sums.index_add_(0, self.indices, values.double()).float()

    def fired(self) -> torch.Tensor:
        """In how many rows each latent has a value above 0, int64 `[M]`."""
        active = self.values > 0
        if not active.is_cuda:
            return torch.bincount(self.indices[active], minlength=self.width)
        # There bincount would wait for the largest index.
        counts = torch.zeros(self.width, dtype=torch.int64, device=active.device)
        return counts.index_add_(0, self.indices, active.long())

    def _cells(self) -> torch.Tensor:
        """Where each entry is in `[B, M]`, flat; int64 `[n]`."""
        return self.row_of().mul_(self.width).add_(self.indices)

    def __repr__(self) -> str:
        return f"Codes({self.rows} rows, {len(self.values)} entries of {self.width} latents)"
