"""`gather` in C++: csrc/core/gather.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._args import bits

if TYPE_CHECKING:
    from mmxai.kernels.gather import PartTable

_WIDENING = {torch.bfloat16: 1, torch.float16: 2}  # enum Widening


def supports() -> str | None:
    return None


def gather(table: PartTable, rows: np.ndarray, out: torch.Tensor, threads: int) -> None:
    widening = 0 if out.dtype == table.dtype else _WIDENING[table.dtype]
    _native.cpu().loaded().gather(
        table.addresses, table.starts, table.width, table.dtype.itemsize, rows, bits(out), widening, threads
    )
