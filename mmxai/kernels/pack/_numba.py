"""`pack` under numba. One thread."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels._args import FLOATS
from mmxai.kernels._jit import jit, narrow, overflows, widen


def supports(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor) -> str | None:
    return None


@jit
def _pack(x: np.ndarray, index: np.ndarray, out: np.ndarray, source: int, target: int) -> int:
    tokens = x.shape[1]
    overflow = 0
    for r in range(len(out)):
        row = index[r] if len(index) else r
        b, t = row // tokens, row % tokens
        if source == target:
            for d in range(x.shape[2]):
                out[r, d] = x[b, t, d]
        else:
            for d in range(x.shape[2]):
                u = widen(x[b, t, d], source)
                overflow += overflows(u, target)
                out[r, d] = narrow(u, target)
    return overflow


def pack(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor, threads: int) -> int:
    rows = np.empty(0, np.int64) if index is None else index.numpy()
    source, target = FLOATS.index(x.dtype), FLOATS.index(out.dtype)
    return int(_pack(_unsigned(x), rows, _unsigned(out), source, target))


def _unsigned(x: torch.Tensor) -> np.ndarray:
    """The bits, sharing memory and strides: uint32 or uint16."""
    return x.view(torch.uint32 if x.dtype == torch.float32 else torch.uint16).numpy()
