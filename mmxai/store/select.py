"""Which logical rows a loader visits: by token type and by a split over samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmxai.errors import ArgumentError, SelectionError
from mmxai.kernels.permute.reference import mix
from mmxai.store.indexing import row_numbers
from mmxai.store.view import View
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

SPLITS = ("train", "val", "test")
_SPLIT_KEY = np.uint64(0x6D6D786169)  # "mmxai": one fixed split, not one a seed, so that test stays unseen
_SAMPLE, _TYPE = ROW_COLUMNS.index("sample"), ROW_COLUMNS.index("token_type")


@dataclass(frozen=True)
class RowFilter:
    """Which rows to visit.

    `tokens`: token types, or ("last",) for the last row of each sample that is not padding. `split`: one of
    `SPLITS`, whose shares of the samples are `splits`. A sample falls into its split by a hash of its index
    alone: the same for every site, every seed, and after the store has grown.
    """

    tokens: tuple[str, ...] | None = None
    split: str | None = None
    splits: tuple[float, ...] = (0.8, 0.1, 0.1)

    @classmethod
    def parse(cls, tokens: Any, split: str | None, splits: Sequence[float]) -> RowFilter:
        if isinstance(tokens, str):
            tokens = tokens.split(",")
        if tokens is not None:
            tokens = tuple(t.strip() for t in tokens)
            unknown = [t for t in tokens if t not in TOKEN_CODES and t != "last"]
            if unknown or not tokens or ("last" in tokens and len(tokens) > 1):
                raise SelectionError(
                    f"tokens: got {list(tokens)}, expected some of {sorted(TOKEN_CODES)}, or 'last' alone"
                )
        if split is not None and split not in SPLITS:
            raise SelectionError(f"split: got {split!r}, expected one of {SPLITS}")
        shares = tuple(float(s) for s in splits)
        if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise SelectionError(f"splits: got {shares}, expected three shares that add up to 1")
        return cls(tokens, split, shares)

    @property
    def everything(self) -> bool:
        return self.tokens is None and self.split is None

    def keep(self, table: np.ndarray) -> np.ndarray:
        """Which rows of whole samples to keep: bool `[N]` for an int32 row table `[N, 8]`."""
        kind, sample = table[:, _TYPE], table[:, _SAMPLE]
        keep = np.ones(len(table), bool)
        if self.tokens == ("last",):
            keep = _last(sample, kind != TOKEN_CODES["pad"])
        elif self.tokens is not None:
            keep = np.isin(kind, [TOKEN_CODES[t] for t in self.tokens])
        if self.split is not None:
            keep &= split_of(sample, self.splits) == SPLITS.index(self.split)
        return keep


def split_of(sample: np.ndarray, splits: Sequence[float]) -> np.ndarray:
    """Index into `SPLITS` of each sample (integers `[N]`)."""
    draw = mix(mix(sample.astype(np.uint64) + _SPLIT_KEY)) >> np.uint64(11)
    return np.searchsorted(np.cumsum(splits)[:-1], draw.astype(np.float64) * 2.0**-53, side="right")


def _last(sample: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The last row of each sample among the `real` ones."""
    rows = np.flatnonzero(real)
    backwards = sample[rows][::-1]
    first = np.unique(backwards, return_index=True)[1]
    keep = np.zeros(len(sample), bool)
    keep[rows[::-1][first]] = True
    return keep


def select_rows(view: View, space: str, chosen: RowFilter, rows: Any = None) -> np.ndarray | None:
    """Logical rows to visit, int64 `[N]`: ascending, or in the order of `rows` where given. None: all rows.

    Takes 8 bytes a selected row. SelectionError where nothing is left.
    """
    total = view.num_rows(space)
    given = None
    if rows is not None:
        given = row_numbers(rows, total, "rows")
        if given.size and (given.min() < 0 or given.max() >= total):
            raise ArgumentError(
                f"rows: got values in [{given.min()}, {given.max()}], expected 0 <= row < {total}"
            )
        if len(np.unique(given)) < len(given):
            raise ArgumentError("rows: got some rows twice, expected distinct rows")
    if chosen.everything:
        kept = given
    else:
        mask = np.zeros(total, bool)
        table = view.row_table(space)
        for i in range(len(table.parts)):  # a sample never spans parts
            start, stop = int(table.starts[i]), int(table.starts[i + 1])
            mask[start:stop] = chosen.keep(view.rows(space, np.arange(start, stop)).table.numpy())
        kept = np.flatnonzero(mask) if given is None else given[mask[given]]
    if (total if kept is None else len(kept)) == 0:
        raise SelectionError(
            f"batches: no row is left of {total} by tokens={chosen.tokens}, split={chosen.split}"
            f"{', rows' if rows is not None else ''}"
        )
    return kept
