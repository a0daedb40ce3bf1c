"""The specification of `gather`, by NumPy's and torch's indexing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels._convert import convert

if TYPE_CHECKING:
    from mmxai.kernels.gather import EncodedTable, PartTable


def supports() -> str | None:
    return None


def gather(table: PartTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> None:
    out.copy_(convert(_held(table, rows), out.dtype))


def gather_encoded(table: EncodedTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> int:
    """Returns how many indices lie outside their row; these are left out."""
    decoded = torch.zeros((len(rows), table.width))
    if table.quantised is not None and table.scales is not None:
        decoded = _held(table.quantised, rows).to(torch.float32) * _held(table.scales, rows)
    out.copy_(convert(decoded, out.dtype))
    if table.kept is None or table.places is None:
        return 0
    kept = convert(_held(table.kept, rows), out.dtype)
    held = table.places
    places = torch.from_numpy(held) if isinstance(held, np.ndarray) else _held(held, rows)
    places = places.to(torch.int64).expand_as(kept)
    inside = (places >= 0) & (places < table.width)
    row = torch.arange(len(rows))[:, None].expand_as(places)
    out[row[inside], places[inside]] = kept[inside]
    return int((~inside).sum())


def _held(table: PartTable, rows: np.ndarray) -> torch.Tensor:
    """The rows in the table's dtype."""
    found = np.empty((len(rows), table.width), table.parts[0].dtype)
    part_of = np.searchsorted(table.starts[1:], rows, side="right")
    for p in np.unique(part_of):
        where = np.flatnonzero(part_of == p)
        found[where] = table.parts[p][rows[where] - table.starts[p]]
    return torch.from_numpy(found).view(table.dtype)
