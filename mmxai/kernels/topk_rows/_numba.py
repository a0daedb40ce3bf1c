"""`topk_rows` under numba. One thread."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels._args import FLOATS
from mmxai.kernels._jit import jit, widen


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None


@jit
def _run(x: np.ndarray, values: np.ndarray, indices: np.ndarray, magnitude: bool, source: int) -> None:
    width, k = x.shape[1], values.shape[1]
    order = np.empty(k, np.int64)
    for r in range(len(x)):
        held = 0
        for d in range(width):
            u = widen(x[r, d], source)
            size = u & 0x7FFFFFFF
            # Integers in the order wanted: -0.0 as 0.0, a NaN above everything.
            key = size if magnitude or u < 0x80000000 else -size
            key = 0x7FFFFFFF if size > 0x7F800000 else key
            if held == k and key <= order[k - 1]:
                continue
            at = min(held, k - 1)
            held = min(held + 1, k)
            while at > 0 and order[at - 1] < key:
                order[at], indices[r, at] = order[at - 1], indices[r, at - 1]
                at -= 1
            order[at], indices[r, at] = key, d
        for i in range(k):
            values[r, i] = x[r, indices[r, i]]


def topk_rows(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    values: torch.Tensor,
    indices: torch.Tensor,
    magnitude: bool,
    threads: int,
) -> None:
    x = x if bias is None else x + bias
    kind = torch.uint32 if x.dtype == torch.float32 else torch.uint16
    _run(x.view(kind).numpy(), values.view(kind).numpy(), indices.numpy(), magnitude, FLOATS.index(x.dtype))
