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
    part_of = np.searchsorted(table.starts[1:], rows, side="right")
    for p in np.unique(part_of):
        where = np.flatnonzero(part_of == p)
        values = torch.from_numpy(table.parts[p][rows[where] - table.starts[p]]).view(table.dtype)
        out[torch.from_numpy(where)] = convert(values, out.dtype)


def gather_encoded(table: EncodedTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> int:
    """Returns how many indices lie outside their row; these are left out."""

    def piece(held: PartTable) -> torch.Tensor:
        found = torch.empty((len(rows), held.width), dtype=held.dtype)
        gather(held, rows, found, threads)
        return found

    decoded = torch.zeros((len(rows), table.width))
    if table.quantised is not None and table.scales is not None:
        decoded = piece(table.quantised).to(torch.float32) * piece(table.scales)
    out.copy_(convert(decoded, out.dtype))
    if table.kept is None or table.places is None:
        return 0
    if isinstance(table.places, np.ndarray):
        places = torch.from_numpy(table.places).to(torch.int64).expand(len(rows), -1)
    else:
        places = piece(table.places).to(torch.int64)
    inside = (places >= 0) & (places < table.width)
    row = torch.arange(len(rows))[:, None].expand_as(places)
    out[row[inside], places[inside]] = convert(piece(table.kept), out.dtype)[inside]
    return int((~inside).sum())
