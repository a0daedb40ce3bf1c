"""Random rows of a table that lies in several arrays, usually memory maps of a store's shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("gather")

STORED = {
    torch.bfloat16: np.dtype(np.uint16),
    torch.float16: np.dtype(np.uint16),
    torch.float32: np.dtype(np.float32),
    torch.int32: np.dtype(np.int32),
}
"""How NumPy holds each dtype of a table."""


class PartTable:
    """A table of `num_rows` rows of `width` values of `dtype`, lying in `parts` one after another.

    `parts`: C-contiguous arrays `[rows of the part, width]` in the NumPy dtype of `STORED[dtype]`; parts may
    be empty. `starts`: int64 `[parts + 1]`, the table's row at which each part begins. `width` is needed
    only where there are no parts.
    """

    def __init__(self, parts: Sequence[np.ndarray], dtype: torch.dtype, width: int | None = None):
        if dtype not in STORED:
            raise ArgumentError(f"table: got dtype {dtype}, expected one of {[str(d) for d in STORED]}")
        if width is None:
            if not parts:
                raise ArgumentError("table: got neither parts nor a width")
            width = parts[0].shape[-1]
        for i, part in enumerate(parts):
            if part.dtype != STORED[dtype] or part.ndim != 2 or part.shape[1] != width:
                raise ArgumentError(
                    f"table: part {i} is {part.dtype} of shape {part.shape}, "
                    f"expected {STORED[dtype]} of shape (rows, {width}) to hold {dtype}"
                )
            if not part.flags.c_contiguous:
                raise ArgumentError(f"table: part {i} is not C-contiguous")
        self.parts = list(parts)
        self.dtype = dtype
        self.width = width
        self.starts = np.cumsum([0, *(len(p) for p in parts)], dtype=np.int64)
        self.addresses = np.array([p.ctypes.data for p in parts], np.uint64)

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.num_rows


def gather(
    table: PartTable,
    rows: np.ndarray,
    out: torch.Tensor,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> None:
    """Write `table`'s `rows` to `out` `[N, width]`.

    `rows`: int64 `[N]`, each in [0, num_rows), in any order, repeats allowed. `out` is contiguous, on the
    CPU, in the table's dtype; or float32 for a bfloat16 or float16 table, which is converted on the way.
    `threads`: None takes as many as torch does.
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
    OP.pick(backend, "cpu").gather(table, np.ascontiguousarray(rows), out, thread_count(threads))
