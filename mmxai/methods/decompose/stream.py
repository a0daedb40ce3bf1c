"""Rows of one site, the same ones in every pass, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import NonFiniteError, SelectionError
from mmxai.store.permute import Permutation
from mmxai.store.select import RowFilter, select_rows

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.types import Batch

Blocks = Callable[[], Iterator[torch.Tensor]]
"""Begins a pass: blocks float32 `[n, D]`, each valid until the next is asked for."""

BLOCK = 2048
SPLITS = (0.8, 0.1, 0.1)  # the store's own


@dataclass(frozen=True)
class RowStream:
    """`rows` of the selected rows of `site` drawn without replacement by `seed`; None: all, in their order.

    Called, it begins a pass. NonFiniteError where a row holds NaN or inf, SelectionError where there is none.
    """

    store: Store
    site: str
    tokens: str | None = None
    split: str | None = None
    rows: int | None = None
    seed: int = 0
    block: int = BLOCK

    @cached_property
    def drawn(self) -> np.ndarray | None:
        """The drawn rows' logical numbers, ascending: int64; None: all that are selected.

        A shuffling loader would draw them too, but holds windows of up to 1 GiB.
        """
        if self.rows is None:
            return None
        space = self.store[self.site].space
        chosen = select_rows(self.store.view, space, RowFilter.parse(self.tokens, self.split, SPLITS))
        total = self.store.view.num_rows(space) if chosen is None else len(chosen)
        if self.rows >= total:
            return chosen
        which = np.sort(np.asarray(Permutation(total, self.seed)(range(self.rows)), np.int64))
        return which if chosen is None else chosen[which]

    def __call__(self) -> Iterator[torch.Tensor]:
        loader = self.store.batches(
            self.block, sites=[self.site], dtype=torch.float32, tokens=self.tokens, split=self.split,
            rows=self.drawn,
        )  # fmt: skip
        seen = 0
        with loader:
            for batch in loader:
                x = finite(batch, self.site)
                seen += len(x)
                yield x
        if not seen:
            raise SelectionError(
                f"decompose: got no row of {self.site} with tokens={self.tokens}, split={self.split}, "
                "expected some; choose another split or other token types"
            )

    def sample(self, rows: int) -> torch.Tensor:
        """`rows` of this stream's rows, or all where there are no more, in memory and in order: `[n, D]`."""
        most = rows if self.rows is None else min(rows, self.rows)
        drawn = RowStream(self.store, self.site, self.tokens, self.split, most, self.seed, self.block)
        return torch.cat([x.clone() for x in drawn()])

    def count(self) -> int:
        """Rows of a pass."""
        loader = self.store.batches(1, sites=[self.site], tokens=self.tokens, split=self.split)
        found = len(loader)
        return found if self.rows is None else min(found, self.rows)


def finite(batch: Batch, site: str) -> torch.Tensor:
    """The rows of a batch; NonFiniteError, which tells the sample, where one holds NaN or inf."""
    x = batch.x
    # A sum is cheaper than a mask of all values, and may overflow.
    if not torch.isfinite(x.sum()) and not x.isfinite().all():
        at = int((~x.isfinite().all(1)).nonzero()[0])
        raise NonFiniteError(
            f"{site}: got NaN or inf in a row of sample {int(batch.rows.sample[at])}, expected finite "
            "activations; leave such rows out with tokens=, or harvest with another dtype"
        )
    return x
