"""`topk_rows` in C++: csrc/core/topk_rows.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits


def supports(x: torch.Tensor, values: torch.Tensor) -> str | None:
    return None


def topk_rows(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    values: torch.Tensor,
    indices: torch.Tensor,
    magnitude: bool,
    threads: int,
) -> None:
    native = _native.cpu().loaded()
    added = None if bias is None else bias.numpy()
    native.topk_rows(bits(x), FLOATS.index(x.dtype), magnitude, added, bits(values), indices.numpy(), threads)
