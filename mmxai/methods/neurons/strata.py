"""Below the top: rows at random from each band of a unit's range, because the top misleads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmxai.store.permute import Permutation
from mmxai.store.units import BLOCK_VALUES, Units

LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"""Quantiles between which rows are drawn. Of a unit that is mostly exactly 0, of the rows where it is not."""

_BYTES = 1 << 24  # values held of the rows looked at
_ENTRY_BYTES = 32  # of an entry of a sparse row: value, unit, its place when sorted by unit


@dataclass
class Strata:
    """rows int64 `[U, bands, n]` (-1: none left) and values float32, from between the quantiles `levels`;
    edges float32 `[U, bands + 1]`, the values of these.

    `sampled` rows were looked at, drawn without replacement: by the Dvoretzky-Kiefer-Wolfowitz inequality the
    level of an edge is within sqrt(log(200) / (2 sampled)) of the one named, 99 times of 100. quantiles
    float32 `[U, len(LEVELS)]` and histogram int64 `[U, BINS]`, from first to last, are of all of them.
    """

    sampled: int
    levels: tuple[float, ...]
    rows: np.ndarray
    values: np.ndarray
    edges: np.ndarray
    quantiles: np.ndarray
    histogram: np.ndarray


BINS = 40


def strata(units: Units, numbers: np.ndarray, each: int, seed: int) -> Strata:
    """Draw `each` rows a band of every unit from logical rows `numbers` (ascending)."""
    most = max(1024, _BYTES // (4 * units.count if units.entries is None else _ENTRY_BYTES * units.entries))
    order = Permutation(len(numbers), seed)(np.arange(min(most, len(numbers))))
    rows = numbers[order]
    column = _columns(units, rows)
    bands = len(LEVELS) - 1
    found = Strata(
        len(rows), LEVELS, np.full((units.count, bands, each), -1, np.int64),
        np.full((units.count, bands, each), np.nan, np.float32),
        np.empty((units.count, bands + 1), np.float32),
        np.empty((units.count, bands + 1), np.float32),
        np.empty((units.count, BINS), np.int64),
    )  # fmt: skip
    for unit in range(units.count):
        own = column(unit)
        found.quantiles[unit] = np.quantile(own, LEVELS)
        found.histogram[unit] = np.histogram(own, BINS, (own.min(), max(own.max(), own.min() + 1e-30)))[0]
        sparse = (own == 0).mean() > 0.5
        alive = own != 0 if sparse else np.ones(len(own), bool)
        edges = np.quantile(own[alive], LEVELS) if alive.any() else np.zeros(bands + 1)
        found.edges[unit] = edges
        band = np.searchsorted(edges[1:-1], own, side="left")
        for b in range(bands):
            drawn = np.flatnonzero(alive & (band == b))[:each]
            found.rows[unit, b, : len(drawn)] = rows[drawn]
            found.values[unit, b, : len(drawn)] = own[drawn]
    return found


def _columns(units: Units, rows: np.ndarray) -> Callable[[int], np.ndarray]:
    """Unit -> its values at logical `rows`, float32 `[N]`. Of sparse rows only the entries are held."""
    if (kept := units.entries) is not None:
        held, columns = units.site.entries(rows)
        values, column = held.float().numpy().ravel(), columns.numpy().ravel()
        order = np.argsort(column, kind="stable")
        starts = np.searchsorted(column, np.arange(units.count + 1), sorter=order)

        def sparse(unit: int) -> np.ndarray:
            own = order[starts[unit] : starts[unit + 1]]
            return np.bincount(own // kept, values[own], len(rows)).astype(np.float32)

        return sparse
    by_row = np.argsort(rows, kind="stable")
    x = np.empty((len(rows), units.count), np.float32)
    step = max(1, BLOCK_VALUES // units.site.width)
    for start in range(0, len(rows), step):
        some = by_row[start : start + step]  # in the store's order, which is quicker to read
        x[some] = units.values(rows[some]).numpy()
    return lambda unit: np.ascontiguousarray(x[:, unit])
