"""`topk_rows` in C++: csrc/core/topk_rows.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None


def topk_rows(
    x: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, magnitude: bool, threads: int
) -> None:
    native = _native.cpu().loaded()
    native.topk_rows(bits(x), FLOATS.index(x.dtype), magnitude, bits(values), indices.numpy(), threads)
