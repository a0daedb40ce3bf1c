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
    unit: bool,
    threads: int,
) -> None:
    native = _native.cpu().loaded()
    native.adam_rows(
        w.numpy(), g.detach().numpy(), m.numpy(), v.numpy(), np.array(fixed, np.float64), unit, threads
    )
