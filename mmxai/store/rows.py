"""The row table of a space: who each logical row is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.store.indexing import resolve, row_numbers
from mmxai.store.view import View
from mmxai.types import ROW_COLUMNS, Rows

if TYPE_CHECKING:
    import pandas

_STEP = 1 << 18


class RowTable:
    """Row identities of one space, aligned with every site of it.

    `table[10:20]` and `table.gather(rows)` give `Rows`; a column by name (`table.sample`) is the whole
    column, int32 `[rows]`.
    """

    def __init__(self, view: Callable[[], View], space: str):
        self._view, self.space = view, space

    def __len__(self) -> int:
        return self._view().num_rows(self.space)

    def __getitem__(self, index: Any) -> Rows:
        """`Rows`; one row for an integer."""
        rows, _ = resolve(index, len(self), f"rows of {self.space}")
        return self._view().rows(self.space, rows)

    def gather(self, rows: Any) -> Rows:
        """The identities of logical `rows` (integers `[N]` or a mask)."""
        view = self._view()
        return view.rows(self.space, row_numbers(rows, view.num_rows(self.space), f"rows of {self.space}"))

    def read(self) -> Rows:
        """The whole table: 32 bytes a row."""
        return self[:]

    def __getattr__(self, name: str) -> torch.Tensor:
        if name not in ROW_COLUMNS:
            raise AttributeError(name)
        view, column = self._view(), ROW_COLUMNS.index(name)
        out = torch.empty(len(self), dtype=torch.int32)
        for start in range(0, len(out), _STEP):
            stop = min(start + _STEP, len(out))
            out[start:stop] = view.rows(self.space, np.arange(start, stop)).table[:, column]
        return out

    def to_pandas(self) -> pandas.DataFrame:
        return self.read().to_pandas()

    def __repr__(self) -> str:
        return f"RowTable({self.space!r}, {len(self):,} rows: {', '.join(ROW_COLUMNS)})"
