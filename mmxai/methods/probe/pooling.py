"""Items of a design as the store is read: rows, or means of a sample's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import NonFiniteError
from mmxai.methods.probe.design import Design

if TYPE_CHECKING:
    from mmxai.store.reader import Store

Items = tuple[np.ndarray, dict[str, torch.Tensor]]


def read_items(
    store: Store, design: Design, sites: Sequence[str], wanted: np.ndarray, batch: int
) -> Iterator[Items]:
    """(numbers of items int64 `[n]`, site -> float32 `[n, D]`), ascending, of the items where bool `wanted`
    `[I]`.

    Reads each of their rows once. NonFiniteError names the site and sample of NaN or inf.
    """
    chosen = wanted[design.item]
    item = design.item[chosen]
    if not len(item):
        return
    loader = store.batches(batch, sites=list(sites), rows=design.rows[chosen], dtype=torch.float32)
    start = 0
    held: Items | None = None
    with loader:
        for found in loader:
            own = item[start : start + found.num_rows]
            start += found.num_rows
            for site in sites:
                if not torch.isfinite(found[site].sum()):
                    _check(site, found[site], found.rows.sample)
            if not design.mean:
                yield own, {site: found[site] for site in sites}
                continue
            sums = _sums(own, {site: found[site] for site in sites}, held)
            whole = (sums[0][:-1], {site: x[:-1] for site, x in sums[1].items()})
            held = sums[0][-1:], {site: x[-1:] for site, x in sums[1].items()}
            if len(whole[0]):
                yield _means(design, whole)
    if held is not None:
        yield _means(design, held)


def _sums(item: np.ndarray, x: dict[str, torch.Tensor], held: Items | None) -> Items:
    """Sums of a batch's rows by item; what was `held` of an item before the batch is added."""
    own, where = np.unique(item, return_inverse=True)
    if held is not None and held[0][0] != own[0]:
        own, where = np.concatenate([held[0], own]), where + 1
    sums = {}
    for site, rows in x.items():
        sums[site] = torch.zeros(len(own), rows.shape[1]).index_add_(0, torch.from_numpy(where), rows)
        if held is not None:
            sums[site][0] += held[1][site][0]
    return own, sums


def _means(design: Design, sums: Items) -> Items:
    own, totals = sums
    # Rows of an item stand together and items ascend.
    count = np.searchsorted(design.item, own, "right") - np.searchsorted(design.item, own, "left")
    each = torch.from_numpy(count).float()[:, None]
    return own, {site: x / each for site, x in totals.items()}


def _check(site: str, x: torch.Tensor, samples: torch.Tensor) -> None:
    rows = (~torch.isfinite(x).all(1)).nonzero().flatten()
    if len(rows):  # else finite numbers whose sum is not
        raise NonFiniteError(
            f"{site}: got NaN or inf in {len(rows)} rows of a batch, the first of sample "
            f"{int(samples[rows[0]])}, expected finite activations; harvest again with another dtype"
        )
