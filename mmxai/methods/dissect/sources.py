"""What is dissected: the units of a site, or random rotations of them, dense or by their entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError, SelectionError
from mmxai.kernels.codes import Codes
from mmxai.models.names import resolve_stored
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.store.reader import Store

ROTATED_MOST = 8192
"""Units, at most, that are rotated: the matrix of more would take longer than all the rest."""


@dataclass(frozen=True)
class Source:
    """Units `start` to `stop` of a site. `rotation` float32 `[all units, all units]`: in their place, random
    directions of the space that they span."""

    units: Units
    start: int
    stop: int
    rotation: torch.Tensor | None = None

    @classmethod
    def of(cls, store: Store, site: str, heads: int | None = None) -> Source:
        units = Units(store, site, heads)
        return cls(units, 0, units.count)

    @property
    def name(self) -> str:
        return self.units.name

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def sparse(self) -> bool:
        """Whether the store holds entries of rows rather than rows."""
        return (
            self.rotation is None
            and not self.units.heads
            and self.units.store.plan.site(self.name).dtype == "topk"
        )

    def range(self, start: int, stop: int) -> Source:
        return replace(self, start=self.start + start, stop=self.start + stop)

    def rotated(self, seed: int) -> Source:
        """Directions drawn from the uniform distribution over rotations and reflections (Haar)."""
        if self.units.count > ROTATED_MOST:
            raise ArgumentError(
                f"{self.name}: got {self.units.count:,} units to rotate, expected at most {ROTATED_MOST:,}; "
                "leave 'rotated' out of the controls"
            )
        return replace(self, rotation=rotation(self.units.count, seed))

    def values(self, rows: np.ndarray) -> torch.Tensor:
        """`[N, count]` of logical rows: float32, or bfloat16 as it is stored."""
        if self.rotation is not None:
            return self.units.values(rows) @ self.rotation[:, self.start : self.stop]
        plain = not self.units.heads and not self.sparse and self.units.site.dtype == torch.bfloat16
        x = self.units.site.gather(rows) if plain else self.units.values(rows)
        whole = self.count == x.shape[1]
        return x if whole else x[:, self.start : self.stop].contiguous()

    def entries(self, rows: np.ndarray) -> Codes:
        """What a site stored as topk holds of logical rows, less the zeros."""
        values, columns = self.units.site.entries(rows)
        keep = (values != 0) & (columns >= self.start) & (columns < self.stop)
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
        torch.cumsum(keep.sum(1), 0, out=offsets[1:])
        indices = (columns[keep] - self.start).to(torch.int32)
        return Codes(values[keep].float(), indices, offsets, self.count)

    def norms(self, rows: np.ndarray) -> torch.Tensor:
        """float32 `[N]`: Euclidean norm of each row of the site."""
        if self.units.store.plan.site(self.name).dtype == "topk":
            return self.units.site.entries(rows)[0].float().norm(dim=1)
        return self.units.site.gather(rows, torch.float32).norm(dim=1)


def sources(store: Store, patterns: Sequence[str], heads: int | None = None) -> dict[str, Source]:
    """The sites that match, in the store's order; those that a glob alone matches only where their rows are
    cells of pictures. SelectionError where none is left."""
    asked = set(resolve_stored(patterns, store.sites))
    maps = {space for space in store.plan.spaces if _has_cells(store, space)}
    named = {name for name in asked if name in patterns or store[name].space in maps}
    if not named:
        raise SelectionError(
            f"{store.path}: got sites {sorted(asked)[:4]}, none of whose rows are cells of pictures, "
            "expected patches or the maps of a network; harvest them with tokens='patch'"
        )
    of = {name: heads if name.endswith(".z") else None for name in named}
    return {name: Source.of(store, name, of[name]) for name in store.sites if name in named}


def _has_cells(store: Store, space: str) -> bool:
    """Whether the first samples have rows with a place in a grid."""
    first = min(len(store.rows[space]), store.plan.rows_per_sample[space])
    return first > 0 and bool((store.rows[space].gather(np.arange(first)).y >= 0).any())


def rotation(width: int, seed: int) -> torch.Tensor:
    """An orthogonal matrix float32 `[width, width]`, uniformly distributed (Mezzadri 2007)."""
    draw = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()
