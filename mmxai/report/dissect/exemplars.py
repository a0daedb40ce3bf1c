"""The pictures in which units are highest, and the outline of each unit's mask there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.report.dissect.outlines import cell_paths, smooth_paths
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.methods.dissect.results import Dissection
    from mmxai.store.reader import Store


@dataclass(frozen=True)
class Exemplars:
    """Of U units k places each, best first: `sample` int64 `[U, k]` (-1: there were fewer), `tile` int64, the
    number of the picture's tile, and `path`, str: the mask's outline in cells of the tile's grid (of smooth
    ones in 1/FINE cells)."""

    sample: np.ndarray
    tile: np.ndarray
    path: np.ndarray


def exemplars(
    found: Dissection, store: Store, *, heads: int | None = None, norm_site: str | None = None
) -> Exemplars:
    """Of the pictures in `found.top_rows`. `heads`, `norm_site`: as it was dissected with.

    The store's rows are read once a picture, whichever and how many units have it.
    """
    units = Units(store, found.site, heads)
    if units.count != found.units:
        raise ArgumentError(
            f"{found.site}: got {found.units} units, which are {units.count} here; expected the heads and "
            "the store that were dissected"
        )
    read = _Reader(units, norm_site if found.norm is not None else None, found.norm or np.inf)
    shape = found.top_rows.shape
    sample, tile = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    path = np.full(shape, "", object)
    unit, place = np.nonzero(found.top_rows >= 0)
    rows = found.top_rows[unit, place]
    who = units.site.rows.gather(rows)
    sample[unit, place] = who.sample.numpy()
    tile[unit, place] = np.maximum(who.image.numpy(), 0)
    order = np.lexsort((tile[unit, place], sample[unit, place]))
    key = np.stack([sample[unit, place], tile[unit, place]], 1)[order]
    turns = np.flatnonzero((np.diff(key, axis=0) != 0).any(1)) + 1
    for own in np.split(order, turns) if len(order) else ():
        u, at = unit[own], place[own]
        distinct, column = np.unique(u, return_inverse=True)
        number, image = int(sample[u[0], at[0]]), int(tile[u[0], at[0]])
        field = read.fields(number, image, rows[own], distinct)
        threshold = found.threshold[distinct]
        if found.mode == "bilinear":
            paths = smooth_paths(field, threshold)
        else:
            paths = cell_paths(field > threshold[:, None, None])
        path[u, at] = [paths[c] for c in column]
    return Exemplars(sample, tile, path)


@dataclass
class _Reader:
    units: Units
    norm_site: str | None
    norm: float

    def fields(self, sample: int, image: int, rows: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Values of `units` in the cells of a picture: float32 `[n, h, w]`, -inf where none is stored or it
        was left out for its norm. `rows`: some of the picture's."""
        store, site = self.units.store, self.units.site
        reach = store.plan.rows_per_sample[site.space]
        near = np.arange(max(0, rows.min() - reach + 1), min(len(site), rows.max() + reach))
        who = site.rows.gather(near)
        own = ((who.sample == sample) & (who.y >= 0) & (who.x >= 0)).numpy()
        own &= np.maximum(who.image.numpy(), 0) == image
        y, x = (getattr(who, name).numpy()[own].astype(np.int64) for name in ("y", "x"))
        height, width = store.samples[sample].tile_in(site.space, image)["grid"]
        out = np.full((len(units), height, width), -np.inf, np.float32)
        values = self._values(near[own], units).numpy()
        if np.isfinite(self.norm):
            values[self._norms(near[own]) > self.norm] = -np.inf
        out[:, y, x] = values.T
        return out

    def _norms(self, rows: np.ndarray) -> np.ndarray:
        name = self.norm_site or self.units.name
        site, topk = self.units.store[name], self.units.store.plan.site(name).dtype == "topk"
        x = site.entries(rows)[0].float() if topk else site.gather(rows, torch.float32)
        return x.norm(dim=1).numpy()

    def _values(self, rows: np.ndarray, units: np.ndarray) -> torch.Tensor:
        """float32 `[T, n]`. Of a site stored as topk its entries are read: rows may be very wide."""
        wanted = torch.from_numpy(units)
        if self.units.heads or self.units.store.plan.site(self.units.name).dtype != "topk":
            return self.units.values(rows)[:, wanted]
        values, columns = self.units.site.entries(rows)
        at = torch.searchsorted(wanted, columns.long()).clamp_(max=len(wanted) - 1)
        row, entry = (wanted[at] == columns).nonzero(as_tuple=True)
        out = torch.zeros(len(rows), len(wanted))
        out[row, at[row, entry]] = values[row, entry].float()
        return out
