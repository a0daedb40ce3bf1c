"""`adam_rows` in C++: csrc/core/adam.h."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels import _native


def supports(w: torch.Tensor) -> str | None:
    return None


def adam_rows(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    fixed: tuple[float, ...],
    scale: float | torch.Tensor,
    unit: bool,
    threads: int,
) -> None:
    *others, decay = fixed
    numbers = np.array((*others, float(scale), decay), np.float64)
    if not np.isnan(numbers[-2]):
        _native.cpu().loaded().adam_rows(
            w.numpy(), g.detach().numpy(), m.numpy(), v.numpy(), numbers, unit, threads
        )
