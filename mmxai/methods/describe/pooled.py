"""One value a picture and unit, out of the rows of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError, NonFiniteError, SelectionError
from mmxai.methods.describe.config import Pool
from mmxai.models.names import resolve_stored
from mmxai.store.units import BLOCK_VALUES, RowBlocks, Units
from mmxai.types import TOKEN_TYPES, Rows

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_ENTRIES = 64  # values a row of a site stored as topk is taken to have, when blocks are cut
_MAP = {"patch", "image"}
_WORDS = {"text", "special", "generated", "pad"}


class Pooled:
    """The units of a site, each by its mean or maximum over a picture's rows, its class token's value or its
    last row's. Of a site stored as topk, what a row did not keep is 0."""

    def __init__(
        self,
        store: Store,
        site: str,
        pool: Pool = "auto",
        tokens: str | None = None,
        heads: int | None = None,
    ):
        self.units = Units(store, site, heads)
        kinds = token_types(store, self.units.site.space)
        if pool == "auto":
            pool = "cls" if "cls" in kinds and tokens is None else "mean"
        if pool in ("cls", "last"):
            tokens = pool
        elif tokens is None and len(kinds) > 1:
            tokens = ",".join(k for k in TOKEN_TYPES if k in (kinds & _MAP or kinds))
        self.how = {"cls": "class token", "last": "last row"}.get(pool, f"{pool} over a picture's rows")
        if pool in ("mean", "max") and tokens is not None:
            self.how += f" ({tokens})"
        self._max = pool == "max"
        self._rows = RowBlocks(store, self.units.site.space, tokens)
        self._sparse = not self.units.heads and store.plan.site(site).dtype == "topk"
        width = _ENTRIES if self._sparse else max(self.units.site.width, self.units.count)
        self._step = max(1, BLOCK_VALUES // width)

    @property
    def count(self) -> int:
        return self.units.count

    def samples(self) -> np.ndarray:
        """int64 `[N]`: whose values `read` gives, in the store's order. Reads row tables alone."""
        found = [_starts(who)[0] for _, who in self._rows(1 << 20)]
        return np.concatenate(found)

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """float32 `[N, stop - start]` of some units, a row a picture, in one pass. NonFiniteError names the
        sample of a NaN or infinity."""
        stop = self.count if stop is None else stop
        found = []
        for rows, who in self._rows(self._step):
            sample, first = _starts(who)
            part = (self._entries if self._sparse else self._dense)(rows, first, start, stop)
            if not torch.isfinite(part).all():
                bad = int((~torch.isfinite(part).all(1)).nonzero()[0])
                raise NonFiniteError(
                    f"{self.units.name}: got NaN or inf in sample {int(sample[bad])}, expected finite "
                    "activations; harvest again with another dtype"
                )
            found.append(part)
        return torch.cat(found)

    def _dense(self, rows: np.ndarray, first: np.ndarray, start: int, stop: int) -> torch.Tensor:
        x = self.units.values(rows)[:, start:stop]
        if len(first) == len(x):
            return x.contiguous()
        if self._max:
            return torch.from_numpy(np.maximum.reduceat(x.numpy(), first, axis=0))
        sums = torch.from_numpy(np.add.reduceat(x.numpy(), first, axis=0, dtype=np.float64))
        return (sums / _lengths(first, len(x))[:, None]).float()

    def _entries(self, rows: np.ndarray, first: np.ndarray, start: int, stop: int) -> torch.Tensor:
        values, columns = self.units.site.entries(rows)
        keep = (values != 0) & (columns >= start) & (columns < stop)
        lengths = _lengths(first, len(rows))
        picture = torch.arange(len(first)).repeat_interleave(lengths)[:, None].expand_as(columns)
        width = stop - start
        place = picture[keep] * width + (columns[keep] - start)
        own = values[keep].float()
        if not self._max:
            sums = torch.zeros(len(first) * width, dtype=torch.float64).index_add_(0, place, own.double())
            return (sums.view(-1, width) / lengths[:, None]).float()
        most = torch.full((len(first) * width,), -torch.inf).scatter_reduce_(0, place, own, "amax")
        # A row that does not hold the unit holds 0 of it.
        kept = torch.zeros(len(first) * width, dtype=torch.int32)
        kept.index_add_(0, place, torch.ones(len(place), dtype=torch.int32))
        absent = kept.view(-1, width) < lengths[:, None]
        most = most.view(-1, width)
        return torch.where(absent, most.clamp(min=0), most)


def _starts(who: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a block, int64 `[n]`, and the row each begins at; rows of a sample stand together."""
    sample = who.sample.numpy().astype(np.int64)
    first = np.flatnonzero(np.diff(sample, prepend=sample[0] - 1))
    return sample[first], first


def _lengths(first: np.ndarray, rows: int) -> torch.Tensor:
    return torch.from_numpy(np.diff(first, append=rows))


def token_types(store: Store, space: str) -> set[str]:
    """Of the first samples' rows; empty where rows are pooled or no types are known."""
    first = min(len(store.rows[space]), store.plan.rows_per_sample[space])
    if not first:
        raise SelectionError(f"{store.path}: got a store without rows in {space!r}, expected some")
    found = store.rows[space].gather(np.arange(first)).token_type.unique().tolist()
    return {TOKEN_TYPES[kind] for kind in found if kind >= 0}


def sites_of(store: Store, patterns: Sequence[str]) -> list[str]:
    """The sites that match, in the store's order; those that a glob alone matches only if some of their rows
    are of pictures. ArgumentError where none is left."""
    asked = set(resolve_stored(patterns, store.sites))
    kinds = {space: token_types(store, space) for space in store.plan.spaces}
    seen = {s for s, kind in kinds.items() if kind - _WORDS or (not kind and s.partition(".")[0] != "text")}
    named = [s for s in store.sites if s in asked and (s in patterns or store[s].space in seen)]
    if not named:
        raise ArgumentError(
            f"{store.path}: got sites {sorted(asked)[:4]}, none of which has rows of pictures, expected such"
        )
    return named


def ranges(count: int, each: int, memory: int) -> Iterator[tuple[int, int]]:
    """Ranges of `count` units, of `each` bytes, that fit in memory."""
    step = max(1, memory // max(1, each))
    for start in range(0, count, step):
        yield start, min(start + step, count)
