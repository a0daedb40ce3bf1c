"""Random rows of a table that lies in several arrays, usually memory maps of a store's shards."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.gather.encoded import EncodedTable
from mmxai.kernels.gather.table import STORED, PartTable

__all__ = ["OP", "STORED", "EncodedTable", "PartTable", "gather"]

OP = Op("gather")


def gather(
    table: PartTable | EncodedTable,
    rows: np.ndarray,
    out: torch.Tensor,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> None:
    """Write `table`'s `rows` to `out` `[N, width]`.

    `rows`: int64 `[N]`, each in [0, num_rows), in any order, repeats allowed. `out` is contiguous, on the
    CPU, in the table's dtype; or float32 for a bfloat16 or float16 table, which is converted on the way. An
    encoded table is decoded in float32 and rounded to nearest even where `out` is bfloat16. `threads`: None
    takes as many as torch does.
    """
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.ndim != 1:
        got = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ArgumentError(f"gather: rows are {got}, expected a NumPy array, int64 of shape (N,)")
    widened = out.dtype == torch.float32 and table.dtype in (torch.bfloat16, torch.float16)
    if out.dtype != table.dtype and not widened:
        raise ArgumentError(
            f"gather: out is {out.dtype}, expected {table.dtype} (or float32 if that has 16 bits)"
        )
    if tuple(out.shape) != (len(rows), table.width) or not out.is_contiguous() or out.device.type != "cpu":
        raise ArgumentError(
            f"gather: out has shape {tuple(out.shape)}, strides {out.stride()}, on {out.device}; "
            f"expected contiguous ({len(rows)}, {table.width}) on the CPU"
        )
    if len(rows) == 0:
        return
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= table.num_rows:
        wrong = low if low < 0 else high
        raise ArgumentError(f"gather: got row {wrong}, expected 0 <= row < {table.num_rows}")
    module, rows, threads = OP.pick(backend, "cpu"), np.ascontiguousarray(rows), thread_count(threads)
    if isinstance(table, PartTable):
        module.gather(table, rows, out, threads)
        return
    outside = module.gather_encoded(table, rows, out, threads)
    if outside:
        raise ArgumentError(
            f"gather: got {outside} indices outside a row of {table.width} values; the table is damaged"
        )
