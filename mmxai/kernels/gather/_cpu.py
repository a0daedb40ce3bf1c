"""`gather` in C++: csrc/core/gather.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._args import bits

if TYPE_CHECKING:
    from mmxai.kernels.gather import EncodedTable, PartTable

_WIDENING = {torch.bfloat16: 1, torch.float16: 2}  # enum Widening


def supports() -> str | None:
    return None


def gather(table: PartTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> None:
    widening = 0 if out.dtype == table.dtype else _WIDENING[table.dtype]
    _native.cpu().loaded().gather(
        table.addresses, table.starts, table.width, table.dtype.itemsize, rows, bits(out), widening, threads
    )


_NONE = np.empty(0, np.uint64)
_NO_COLUMNS = np.empty(0, np.int32)


def gather_encoded(table: EncodedTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> int:
    quantised, scales, kept = (
        _NONE if p is None else p.addresses for p in (table.quantised, table.scales, table.kept)
    )
    indices, index_bytes, columns = _NONE, 0, _NO_COLUMNS
    if isinstance(table.places, np.ndarray):
        columns = table.places
    elif table.places is not None:
        indices, index_bytes = table.places.addresses, table.places.dtype.itemsize
    k = 0 if table.kept is None else table.kept.width
    return _native.cpu().loaded().gather_encoded(
        table.starts, table.width, quantised, scales, kept, k, indices, index_bytes, columns, rows, bits(out),
        threads,
    )  # fmt: skip
