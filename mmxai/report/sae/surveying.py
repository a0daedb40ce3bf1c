"""One pass over a store of latents: when each of some latents is active, and together with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.report.sae.tally import Draws, Tally, keyed
from mmxai.types import TOKEN_TYPES, Rows

if TYPE_CHECKING:
    from mmxai.store.reader import Site, Store

BINS = 40
BANDS = 4
"""Of each latent's range, from 0 to its maximum: bins of the histogram; bands to draw rows from."""

_TOGETHER = 1 << 25  # counts of what is active together, latents of a pass by all of them

_ENTRIES = 1 << 20  # codes read at a time


@dataclass(frozen=True)
class Place:
    """Where a latent is active: `cells` int64 `[h, w]` rows a grid cell; `kinds` rows a token type."""

    cells: np.ndarray
    kinds: dict[str, int]


@dataclass(frozen=True)
class TokenUse:
    """A token on which a latent is active: the share of its total that falls there, and how often it does."""

    token_id: int
    share: float
    rate: float


@dataclass(frozen=True)
class Drawn:
    """Rows drawn at random from one band (`low`, `high`] of a latent's values; `size`: rows in the band."""

    low: float
    high: float
    size: int
    rows: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Latent:
    """What one pass tells of a latent.

    active: rows in which it is above 0. maximum, mean: its values where it is active. histogram: int64
    `[BINS]`, values in equal bins from 0 to the maximum. bands: the highest first. together: int64 `[M]`,
    rows in which each latent is active too. tokens: the most telling first; empty without token ids.
    """

    latent: int
    active: int
    maximum: float
    mean: float
    histogram: np.ndarray
    bands: list[Drawn]
    together: np.ndarray
    place: Place
    tokens: list[TokenUse]


@dataclass(frozen=True)
class Survey:
    """`rows` read; `fired` int64 `[M]`: rows in which each latent of the dictionary is above 0."""

    rows: int
    fired: np.ndarray
    latents: dict[int, Latent]


def survey(
    store: Store, name: str, latents: Sequence[int], *, draws: int = 12, tokens: int = 12, seed: int = 0
) -> Survey:
    """Read every row of site `name`, which is stored as topk, once (of wide dictionaries several times, where
    many latents are asked for: 256 latents a pass of 131,072).

    `draws` rows of each band are drawn for each latent, by a keyed hash: another seed, other rows. Memory is
    bounded by what is kept of the latents asked for, whatever the length of the store.
    """
    site, maxima = store[name], store.stats[name].max.numpy()
    if store.plan.site(name).dtype != "topk":
        raise ArgumentError(
            f"{name}: is stored as {site.storage}, expected a store of latents, stored as topk; "
            "`mmxai sae encode` makes one"
        )
    wrong = [u for u in latents if not 0 <= u < site.width]
    if wrong:
        raise ArgumentError(f"{name}: got latents {wrong[:8]}, expected 0 <= latent < {site.width:,}")
    chosen = np.array(list(dict.fromkeys(latents)), np.int64)
    found: dict[int, Latent] = {}
    fired = np.zeros(site.width, np.int64)
    at_once = max(1, _TOGETHER // site.width)
    for start in range(0, max(1, len(chosen)), at_once):
        one = _Pass(site, chosen[start : start + at_once], maxima, draws, seed)
        one.read()
        fired = one.fired
        found |= {int(u): one.latent(i, tokens) for i, u in enumerate(one.chosen)}
    return Survey(len(site), fired, found)


class _Pass:
    def __init__(self, site: Site, chosen: np.ndarray, maxima: np.ndarray, draws: int, seed: int):
        self.site, self.chosen, self.draws, self.seed = site, chosen, draws, seed
        self.maxima = np.maximum(maxima[chosen].astype(np.float64), 0)  # -inf in a store without rows
        self.index = np.full(site.width, -1, np.int64)
        self.index[chosen] = np.arange(len(chosen))
        self.fired = np.zeros(site.width, np.int64)
        self.histogram = np.zeros((len(chosen), BINS), np.int64)
        self.total = np.zeros(len(chosen))
        self.together = np.zeros((len(chosen), site.width), np.int64)
        self.kinds = np.zeros((len(chosen), len(TOKEN_TYPES)), np.int64)
        self.cells = Tally()
        self.tokens = Tally()
        self.all_tokens = Tally()
        self.kept = Draws(draws)

    def read(self) -> None:
        k = max(1, self.site.entries(range(min(1, len(self.site))))[0].shape[1])
        step = max(1, _ENTRIES // k)
        for start in range(0, len(self.site), step):
            rows = np.arange(start, min(start + step, len(self.site)))
            values, columns = self.site.entries(rows)
            self._block(rows, values.float().numpy(), columns.numpy(), self.site.rows.gather(rows))

    def _block(self, rows: np.ndarray, values: np.ndarray, columns: np.ndarray, who: Rows) -> None:
        active = values > 0
        self.fired += np.bincount(columns[active], minlength=self.site.width)
        here = np.where(active, self.index[columns], -1)
        row, entry = np.nonzero(here >= 0)
        i, value = here[row, entry], values[row, entry].astype(np.float64)
        level = np.minimum(BINS - 1, np.ceil(value / self.maxima[i] * BINS).astype(np.int64) - 1).clip(0)
        np.add.at(self.histogram, (i, level), 1)
        np.add.at(self.total, i, value)
        for column in range(columns.shape[1]):
            other = active[row, column]
            np.add.at(self.together, (i[other], columns[row[other], column]), 1)
        band = i * BANDS + level * BANDS // BINS
        self.kept.add(band, rows[row], value, self.chosen[i], self.seed)
        kind, y, x, token = (getattr(who, name).numpy() for name in ("token_type", "y", "x", "token_id"))
        typed, placed, worded = kind[row] >= 0, y[row] >= 0, token[row] >= 0
        np.add.at(self.kinds, (i[typed], kind[row][typed]), 1)
        self.cells.add((i << 40 | y[row] << np.int64(20) | x[row])[placed])
        self.tokens.add((i << 32 | token[row])[worded], value[worded])
        self.all_tokens.add(token[token >= 0].astype(np.int64))

    def latent(self, i: int, tokens: int) -> Latent:
        active, high = int(self.histogram[i].sum()), float(self.maxima[i])
        sizes = self.histogram[i].reshape(BANDS, -1).sum(1)
        bands = []
        for band in reversed(range(BANDS)):
            rows, values = self.kept.of(i * BANDS + band)
            low = band / BANDS
            bands.append(Drawn(low * high, (band + 1) / BANDS * high, int(sizes[band]), rows, values))
        return Latent(
            int(self.chosen[i]), active, high, float(self.total[i] / max(1, active)),
            self.histogram[i], bands,
            self.together[i], Place(self._cells(i), self._kinds(i)), self._tokens(i, tokens),
        )  # fmt: skip

    def _cells(self, i: int) -> np.ndarray:
        """The grid is as large as the cells on which any latent of this pass is active."""
        keys = self.cells.keys
        y, x = keys >> 20 & 0xFFFFF, keys & 0xFFFFF
        grid = np.zeros((int(y.max(initial=-1)) + 1, int(x.max(initial=-1)) + 1), np.int64)
        own = keys >> 40 == i
        grid[y[own], x[own]] = self.cells.counts[own]
        return grid

    def _kinds(self, i: int) -> dict[str, int]:
        return {name: int(n) for name, n in zip(TOKEN_TYPES, self.kinds[i], strict=True) if n}

    def _tokens(self, i: int, most: int) -> list[TokenUse]:
        own = self.tokens.keys >> 32 == i
        ids, counts, sums = self.tokens.keys[own] & 0xFFFFFFFF, self.tokens.counts[own], self.tokens.sums[own]
        everywhere = self.all_tokens.counts[np.searchsorted(self.all_tokens.keys, ids)]
        order = np.argsort(-sums, kind="stable")[:most]
        whole = max(float(sums.sum()), 1e-30)
        return [
            TokenUse(int(ids[j]), float(sums[j] / whole), float(counts[j] / everywhere[j])) for j in order
        ]


def draw_latents(store: Store, name: str, number: int, seed: int = 0) -> list[int]:
    """So many latents at random among those ever active, ascending: a fair sample, not the prettiest."""
    site = store[name]
    alive = torch.nonzero(store.stats[site.name].positive > 0)[:, 0].numpy()
    order = np.argsort(keyed(alive, seed), kind="stable")
    return sorted(alive[order[:number]].tolist())
