"""A store made from another's rows, part by part: the same samples, parts and row table, other sites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.store.select import RowFilter
    from mmxai.store.writer import StoreWriter


def parts_to_make(writer: StoreWriter, source: Store, rank: int, world: int) -> Iterator[int]:
    """Parts of `source` that are not made yet, the own share first, each claimed."""
    parts = [int(p) for p in source.view.snapshot.parts]
    mine = [p for p in parts if p % world == rank]
    for part in mine + [p for p in parts if p % world != rank]:
        if writer.claim(part):
            yield part


def rows_of_part(source: Store, space: str, part: int, keep: RowFilter) -> tuple[np.ndarray, torch.Tensor]:
    """Logical rows int64 `[n]` of a part that are kept, and their row table int32 `[n, 8]`."""
    table = source.view.row_table(space)
    at = int(np.searchsorted(table.parts, part))
    rows = np.arange(int(table.starts[at]), int(table.starts[at + 1]))
    who = source.view.rows(space, rows).table
    kept = keep.keep(who.numpy())
    return rows[kept], who[torch.from_numpy(kept)].contiguous()


def samples_of_part(source: Store, part: int) -> list[dict[str, Any]]:
    """The source's lines about the samples of a part, as they are."""
    return [json.loads(line) for line in source.view.snapshot.samples_text(part).splitlines()]
