"""`code_gradients` in C++: csrc/core/code_gradients.h."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._codes import arrays, optional
from mmxai.kernels.codes import Codes


def supports(codes: Codes, errors: torch.Tensor, x: torch.Tensor) -> str | None:
    return None


def code_gradients(
    codes: Codes,
    d_pre: torch.Tensor,
    errors: torch.Tensor,
    x: torch.Tensor,
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    ends: tuple[int, ...],
    project: torch.Tensor | None,
    threads: int,
) -> None:
    _native.cpu().loaded().code_gradients(
        *arrays(codes), optional(d_pre), optional(errors), optional(x), np.array(ends, np.int64),
        optional(project), *(g.numpy() for g in out), threads,
    )  # fmt: skip
