"""What of a site is a unit (a column, a head, a latent), its values, and rows in blocks of whole samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import sparse

from mmxai.errors import ArgumentError, SelectionError
from mmxai.store.select import RowFilter
from mmxai.types import Rows

if TYPE_CHECKING:
    from mmxai.store.reader import Store

Kind = Literal["neuron", "head", "dimension", "latent"]

BLOCK_VALUES = 1 << 20
"""Values of a block, 4 MiB in float32: small enough that what is made of it stays in a cache."""

_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "ln_final", "embeds")


class Units:
    """The units of one site of a store.

    kind: "head" (the Euclidean norm of the head's columns; of `z`, whose head count the store's plan or
    `heads` tells), "latent" (a column of the codes of an SAE or a dictionary), "dimension" (a column of the
    residual stream or of what is added to it), else "neuron". Of a site stored as topk, what a row did not
    keep is 0. `heads=0` takes columns one by one where the plan tells of heads.
    """

    def __init__(self, store: Store, name: str, heads: int | None = None):
        self.store, self.site = store, store[name]
        self.name, width = name, self.site.width
        told = (store.plan.notes.get("heads") or {}).get(name) if name.endswith(".z") else None
        self.heads = int(told or 0) if heads is None else heads
        if self.heads < 0 or (self.heads and width % self.heads):
            raise ArgumentError(f"{name}: got {heads} heads, expected a divisor of its width {width}")
        self.kind: Kind = "head" if self.heads else _kind(store, name)
        self.count = self.heads or width

    @property
    def dtype(self) -> torch.dtype:
        """In which values are exact: the stored dtype; float32 of heads, whose norms are computed."""
        return torch.float32 if self.heads else self.site.dtype

    def values(self, rows: Any) -> torch.Tensor:
        """float32 `[N, units]` of logical rows."""
        x = self.site.gather(rows, torch.float32)
        return x.unflatten(1, (self.heads, -1)).norm(dim=2) if self.heads else x

    @property
    def entries(self) -> int | None:
        """How many of its units a row holds, where the site is stored as topk; None where it holds all."""
        return None if self.heads else self.store.plan.site(self.name).k

    def of(self, unit: int, rows: np.ndarray) -> torch.Tensor:
        """float32 `[N]` of one unit. Of a site stored as topk its entries are read: rows may be very wide."""
        if self.entries is None:
            return self.values(rows)[:, unit]
        values, columns = self.site.entries(rows)
        return torch.where(columns == unit, values, 0).sum(1).float()

    def sparse(self, rows: np.ndarray) -> sparse.csr_array:
        """float64 `[N, units]` of a site stored as topk: its entries, of rows too wide to be decoded."""
        values, columns = self.site.entries(rows)
        counted = np.int32 if columns.numel() < 2**31 else np.int64
        starts = np.arange(len(rows) + 1, dtype=counted) * columns.shape[1]
        held = values.double().numpy().ravel(), columns.to(torch.int32).numpy().ravel(), starts
        found = sparse.csr_array(held, shape=(len(rows), self.count))
        found.eliminate_zeros()
        return found

    def __repr__(self) -> str:
        return f"Units({self.count:,} {self.kind}s of {self.name!r}, {len(self.site):,} rows)"


def _kind(store: Store, name: str) -> Kind:
    if {"sae", "dictionaries"} & set(store.plan.identity) or name.endswith(".sae"):
        return "latent"
    return "dimension" if name.rpartition(".")[2] in _STREAM else "neuron"


@dataclass(frozen=True)
class Block:
    """Rows of whole samples: logical numbers int64 `[N]`, who they are, and float32 `[N, units]`."""

    rows: np.ndarray
    who: Rows
    values: torch.Tensor


@dataclass(frozen=True)
class RowBlocks:
    """The rows of a space in their order, in blocks that no sample is cut by, filtered as a loader filters.

    `tokens`, `split`: see `mmxai.store.select.RowFilter`. Rows of one sample stand together in a store.
    """

    store: Store
    space: str
    tokens: str | None = None
    split: str | None = None

    def __call__(self, step: int, start: int = 0) -> Iterator[tuple[np.ndarray, Rows]]:
        """Blocks of about `step` rows (a sample's rows at least), from the logical row `start` on, at which a
        sample begins. SelectionError where there is none."""
        chosen = RowFilter.parse(self.tokens, self.split, (0.8, 0.1, 0.1))
        table, total = self.store.rows[self.space], len(self.store.rows[self.space])
        found = False
        while start < total:
            stop = self._end(start + max(1, step), total)
            rows = np.arange(start, stop)
            who = table.gather(rows)
            if not chosen.everything:
                keep = chosen.keep(who.table.numpy())
                rows, who = rows[keep], who[torch.from_numpy(keep)]
            if len(rows):
                found = True
                yield rows, who
            start = stop
        if not found:
            raise SelectionError(
                f"{self.space}: no row is left of {total} by tokens={self.tokens}, split={self.split}"
            )

    def _end(self, stop: int, total: int) -> int:
        """The first row from `stop` on at which a sample begins."""
        reach = self.store.plan.rows_per_sample[self.space]
        near = np.arange(stop - 1, min(stop + reach, total))
        if stop >= total:
            return total
        sample = self.store.rows[self.space].gather(near).sample.numpy()
        other = np.flatnonzero(sample != sample[0])
        return stop - 1 + int(other[0]) if len(other) else total


def blocks(units: Units, rows: RowBlocks) -> Iterator[Block]:
    """The values of `units`, block by block, each of about `BLOCK_VALUES`."""
    for numbers, who in rows(max(1, BLOCK_VALUES // max(units.site.width, units.count))):
        yield Block(numbers, who, units.values(numbers))
