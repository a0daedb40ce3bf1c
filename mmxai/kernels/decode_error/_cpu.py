"""`decode_error` in C++: csrc/core/codes.h."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._codes import arrays, optional
from mmxai.kernels.codes import Codes


def supports(codes: Codes, W_dec: torch.Tensor, ends: tuple[int, ...]) -> str | None:
    return None


def decode_error(
    codes: Codes,
    W_dec: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor,
    base: torch.Tensor | None,
    ends: tuple[int, ...],
    weights: tuple[float, ...],
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    threads: int,
) -> None:
    _native.cpu().loaded().decode_error(
        *arrays(codes), W_dec.numpy(), optional(target), optional(bias), optional(base),
        np.array(ends, np.int64), np.array(weights, np.float64), *(x.numpy() for x in out), threads,
    )  # fmt: skip
