"""`pack` in C++: csrc/core/pack.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits


def supports(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor) -> str | None:
    return None


def pack(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor, threads: int) -> int:
    rows = None if index is None else index.numpy()
    return (
        _native.cpu()
        .loaded()
        .pack(bits(x), FLOATS.index(x.dtype), rows, bits(out), FLOATS.index(out.dtype), threads)
    )
