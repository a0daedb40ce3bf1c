"""From what users put in brackets to logical row numbers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError


def row_numbers(rows: Any, num_rows: int, what: str) -> np.ndarray:
    """Rows given as a tensor, array, range or list of integers, or as a mask: int64 `[N]`, unchecked."""
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu().numpy()
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ArgumentError(
            f"{what}: got rows {array.dtype} of shape {array.shape}, expected integers of shape (N,)"
        )
    if array.dtype == bool:
        if len(array) != num_rows:
            raise ArgumentError(f"{what}: got a mask of {len(array)} rows, expected {num_rows}")
        return np.flatnonzero(array)
    return np.ascontiguousarray(array, np.int64)


def resolve(index: Any, num_rows: int, what: str) -> tuple[np.ndarray, bool]:
    """Rows for `table[index]`, and whether the row axis goes (an integer); negative ones count back."""
    if isinstance(index, slice):
        start, stop, step = index.indices(num_rows)
        return np.arange(start, stop, step, dtype=np.int64), False
    if index is Ellipsis:
        return np.arange(num_rows, dtype=np.int64), False
    single = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
    rows = np.array([operator.index(index)]) if single else row_numbers(index, num_rows, what)
    rows = np.where(rows < 0, rows + num_rows, rows)
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise IndexError(f"{what}: got a row outside the {num_rows} rows")
    return rows, single
