"""One pass over whole samples of a store with several SAEs: what each latent did, and what was there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import SelectionError
from mmxai.labels import Truth, cell_labels
from mmxai.methods.sae.activity import Activity
from mmxai.methods.sae.rows import inputs_and_targets
from mmxai.store.select import RowFilter
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE
    from mmxai.store.reader import Store

ROWS = 4096
FEWEST_SAMPLES = 16


@dataclass
class Seen:
    """What was there: `samples` int64 `[S]`, `present` bool `[S, C]`, and of the cells `cells` bool `[R, K]`
    and `cell_sample` int64 `[R]`, an index into `samples`; of the latents, by SAE, `pictures` (items are
    samples, by the largest activation among their rows) and `patches` (items are cells). Over the cells of
    the choosing half: `sums` float64 `[K + 1, D]` of x where a label is, and last of all; `counts` `[K + 1]`
    of cells.

    `choose` bool `[S]`: the half of the samples that latents and thresholds are chosen on; figures come
    from the other.
    """

    samples: np.ndarray
    present: np.ndarray
    vectors: np.ndarray
    choose: np.ndarray
    cells: np.ndarray
    cell_sample: np.ndarray
    pictures: dict[str, Activity]
    patches: dict[str, Activity]
    sums: torch.Tensor
    counts: torch.Tensor


@dataclass
class _Entries:
    """Entries (item, latent, value) of one SAE as they come."""

    items: list[np.ndarray] = field(default_factory=list)
    latents: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    def add(self, items: np.ndarray, latents: np.ndarray, values: np.ndarray) -> None:
        self.items.append(items)
        self.latents.append(latents)
        self.values.append(values)

    def activity(self, count: int, width: int) -> Activity:
        items, latents, values = map(np.concatenate, (self.items, self.latents, self.values))
        return Activity.highest(items, latents, values, count, width)


def look(
    saes: Mapping[str, SAE],
    store: Store,
    truth: Truth,
    *,
    samples: int = 1024,
    seed: int = 0,
    **selection: Any,
) -> Seen:
    """Encode all rows of (up to) `samples` samples with every SAE; all read the same input sites.

    selection: tokens, split, splits of `store.batches`. SelectionError where too few samples are left.
    """
    spec = next(iter(saes.values())).spec
    space = store[spec.sites_in[0]].space
    chosen, rows = chosen_rows(store, space, samples, seed, selection)
    halves = np.random.default_rng(seed).permutation(len(chosen)) * 2 < len(chosen)
    sums = torch.zeros(len(truth.cell_names) + 1, spec.width_in, dtype=torch.float64)
    counts = torch.zeros(len(sums), dtype=torch.float64)
    pictures = {name: _Entries() for name in saes}
    patches = {name: _Entries() for name in saes}
    cells, cell_sample, seen = [], [], 0
    with store.batches(ROWS, sites=list(spec.sites_in), dtype=torch.float32, rows=rows) as loader:
        for batch in loader:
            x, _ = inputs_and_targets(spec, batch)
            index = np.searchsorted(chosen, batch.rows.sample.numpy())
            grid, labels = cell_labels(truth, store, space, batch.rows)
            for name, sae in saes.items():
                codes = sae.encode(x)
                active = codes.values > 0  # codes may hold entries of value 0
                row, latents, values = (
                    t[active].cpu().numpy() for t in (codes.row_of(), codes.indices, codes.values)
                )
                pictures[name].add(*_reduced(index[row], latents, values, sae.spec.latents))
                cell = (np.cumsum(grid) - 1)[row] + seen
                kept = grid[row]
                patches[name].add(cell[kept], latents[kept], values[kept])
            own = torch.from_numpy(grid & halves[index])
            known = np.pad(labels[halves[index[grid]]], ((0, 0), (0, 1)), constant_values=True)
            theirs = torch.from_numpy(known).double()
            sums += theirs.T @ x[own].double()
            counts += theirs.sum(0)
            cells.append(labels)
            cell_sample.append(index[grid])
            seen += int(grid.sum())
    return Seen(
        samples=chosen,
        present=np.asarray(truth.present(chosen), bool),
        vectors=truth.vectors(chosen),
        choose=halves,
        cells=np.concatenate(cells),
        cell_sample=np.concatenate(cell_sample),
        pictures={n: e.activity(len(chosen), saes[n].spec.latents) for n, e in pictures.items()},
        patches={n: e.activity(seen, saes[n].spec.latents) for n, e in patches.items()},
        sums=sums,
        counts=counts,
    )


def chosen_rows(
    store: Store, space: str, samples: int, seed: int, selection: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `samples` samples of a selection, drawn by seed, and their rows: both int64, ascending."""
    options = {"tokens": None, "split": None, "splits": (0.8, 0.1, 0.1), **selection}
    keep = RowFilter.parse(**options)
    table, rows, owners = store.view.row_table(space), [], []
    for start, stop in pairwise(table.starts.tolist()):  # a sample never spans parts
        part = store.view.rows(space, np.arange(start, stop)).table.numpy()
        kept = np.flatnonzero(keep.keep(part))
        rows.append(start + kept)
        owners.append(part[kept, ROW_COLUMNS.index("sample")].astype(np.int64))
    owner = np.concatenate([np.empty(0, np.int64), *owners])
    every = np.unique(owner)
    if len(every) < FEWEST_SAMPLES:
        raise SelectionError(
            f"sae eval: got {len(every)} samples with {options}, expected at least {FEWEST_SAMPLES}; choose "
            "another split, or a larger store"
        )
    if len(every) > samples:
        every = np.sort(np.random.default_rng(seed).choice(every, samples, replace=False))
    return every, np.concatenate(rows)[np.isin(owner, every)]


def _reduced(
    items: np.ndarray, latents: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest value of each (item, latent), so that a pass keeps one entry a picture, not one a patch."""
    found = Activity.highest(items, latents, values, 0, width)
    return found.items, found.latents, found.values
