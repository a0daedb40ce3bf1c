"""The specification of `gather`, by NumPy's indexing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels._convert import convert

if TYPE_CHECKING:
    from mmxai.kernels.gather import PartTable


def supports() -> str | None:
    return None


def gather(table: PartTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> None:
    part_of = np.searchsorted(table.starts[1:], rows, side="right")
    for p in np.unique(part_of):
        where = np.flatnonzero(part_of == p)
        values = torch.from_numpy(table.parts[p][rows[where] - table.starts[p]]).view(table.dtype)
        out[torch.from_numpy(where)] = convert(values, out.dtype)
