"""A table that lies in several arrays, usually memory maps of a store's shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmxai.errors import ArgumentError

STORED = {
    torch.bfloat16: np.dtype(np.uint16),
    torch.float16: np.dtype(np.uint16),
    torch.float32: np.dtype(np.float32),
    torch.int32: np.dtype(np.int32),
    torch.uint16: np.dtype(np.uint16),
    torch.int8: np.dtype(np.int8),
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
