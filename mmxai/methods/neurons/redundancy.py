"""Units that say the same: each one's nearest others by correlation, and near-duplicates in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mmxai.linalg.correlation import PAIR_BYTES, CrossMoments, sparse_correlation
from mmxai.store.permute import Permutation
from mmxai.store.units import BLOCK_VALUES, Units


@dataclass
class Redundancy:
    """nearest int64 `[U, n]` and correlation float32 `[U, n]`, the largest |r| first; over `rows` rows.

    groups: units linked by |r| >= `level`, the largest group first.
    """

    rows: int
    level: float
    nearest: np.ndarray
    correlation: np.ndarray
    groups: list[list[int]]


_PRODUCTS, _FEWEST = 1 << 40, 4096  # a minute's work or so; rows that a correlation has at least
_STEP = (
    512  # rows at least at a time: each block's products are added up in float64, which costs as much as 100
)
_ENTRY_BYTES = 48  # of a sparse row's entry: value and column, by row and by unit


def redundancy(
    units: Units, numbers: np.ndarray, *, rows: int, level: float, near: int, seed: int = 0,
    memory: int = 1 << 30,
) -> Redundancy:  # fmt: skip
    """Of logical rows `numbers`: all, or `rows` drawn without replacement (of very wide sites, over 4,096
    units, fewer: 4,096 of 16,384 units), for U^2 products a row are much.

    Units are taken by as many at once as `memory` holds the products of; the rows are read for each such
    group. Of a site stored as topk only entries are multiplied, of rows that are read once and held in a
    quarter of `memory`. The standard error of a correlation over n independent rows is about
    (1 - r^2) / sqrt(n).
    """
    kept = units.entries
    most = _PRODUCTS // units.count**2 if kept is None else memory // 4 // (_ENTRY_BYTES * kept)
    rows = min(rows, max(_FEWEST, most))
    if len(numbers) > rows:
        numbers = np.sort(numbers[Permutation(len(numbers), seed)(np.arange(rows))])
    correlations = _dense(units, numbers) if kept is None else _sparse(units, numbers)
    each = max(1, memory // (PAIR_BYTES * units.count))
    near = min(near, max(1, units.count - 1))
    # Made before the loop: small things kept between large ones would keep the heap from shrinking.
    nearest, found = torch.empty(units.count, near, dtype=torch.int64), torch.empty(units.count, near)
    links = np.arange(units.count)
    for first in range(0, units.count, each):
        own = slice(first, first + each)
        r = correlations(own)
        itself = torch.arange(len(r))
        r[itself, itself + first] = 0
        size = r.abs()
        size[itself, itself + first] = -1  # of others that correlate by 0, too, none is itself
        nearest[own] = size.topk(near, dim=1).indices
        found[own] = r.gather(1, nearest[own])
        alike = sparse.coo_array((size >= level).numpy())
        del r, size
        links = linked(links, alike.row + first, alike.col)
        del alike
    return Redundancy(len(numbers), level, nearest.numpy(), found.numpy(), _groups(links))


Correlations = Callable[[slice], torch.Tensor]
"""Of a group of units with all: float32 `[group, U]`."""


def _dense(units: Units, numbers: np.ndarray) -> Correlations:
    def correlations(group: slice) -> torch.Tensor:
        found = CrossMoments(len(range(units.count)[group]), units.count)
        step = max(_STEP, BLOCK_VALUES // max(units.site.width, units.count))
        for start in range(0, len(numbers), step):
            x = units.values(numbers[start : start + step])
            found.update(x[:, group], x)
        return found.correlation()

    return correlations


def _sparse(units: Units, numbers: np.ndarray) -> Correlations:
    by_row = units.sparse(numbers)
    by_unit = by_row.tocsc()
    return lambda group: sparse_correlation(by_unit[:, group], by_row)


def linked(links: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`links` int64 `[U]`, a number for each unit that those linked to it share, once a[i] is linked to b[i]
    too."""
    count = len(links)
    # A number is that of a unit: linking each to that one, too, keeps what was linked before.
    a, b = np.concatenate([a, np.arange(count)]), np.concatenate([b, links])
    graph = sparse.coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    first: np.ndarray = np.unique(part, return_index=True)[1]
    return first[part]


def _groups(links: np.ndarray) -> list[list[int]]:
    """Units that share a number, two at least; the largest group first."""
    order = np.argsort(links, kind="stable")
    every = np.split(order, np.flatnonzero(np.diff(links[order])) + 1)
    return sorted((g.tolist() for g in every if len(g) > 1), key=lambda g: (-len(g), g))
