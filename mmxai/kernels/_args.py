"""Checks and views shared by the ops' public functions and backends."""

from __future__ import annotations

import numpy as np
import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.uint16}


def bits(x: torch.Tensor) -> np.ndarray:
    """A CPU tensor as NumPy, sharing memory; bfloat16 and float16 as uint16, for NumPy lacks the first."""
    x = x.detach()
    return (x.view(_BITS[x.dtype]) if x.dtype in _BITS else x).numpy()
