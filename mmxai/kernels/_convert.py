"""Conversion between float32, bfloat16 and float16, bit for bit: the specification of every backend.

Rounding is to nearest, ties to even. Infinities and signed zeros keep themselves, denormals are converted,
not flushed. A NaN keeps its sign and the leading bits of its payload and becomes quiet, as the processors'
own instructions have it (torch's conversion differs from one vector width to the next). Two exceptions, both
because they are plain bit moves: the same dtype, and bfloat16 -> float32, where a signalling NaN stays one.
"""

from __future__ import annotations

import torch


def convert(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` (float32, bfloat16 or float16, any shape) as `dtype` (one of the same)."""
    if x.dtype == dtype:
        return x
    if x.dtype == torch.bfloat16:
        return convert((_bits(x) << 16).view(torch.float32), dtype)
    if x.dtype == torch.float16:
        bits = _bits(x)
        nan = ((bits & 0x8000) << 16) | 0x7FC00000 | ((bits & 0x3FF) << 13)
        return convert(torch.where(x.isnan(), nan, x.float().view(torch.int32)).view(torch.float32), dtype)
    bits = x.contiguous().view(torch.int32)
    sign = (bits >> 16) & 0x8000
    if dtype == torch.bfloat16:
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nan = (bits >> 16) | 0x40
    else:
        rounded = _bits(x.to(torch.float16))
        nan = sign | 0x7E00 | ((bits >> 13) & 0x3FF)
    return torch.where(x.isnan(), nan, rounded).to(torch.int16).view(dtype)


def _bits(x: torch.Tensor) -> torch.Tensor:
    """The bits of a 16-bit tensor, as int32 in [0, 65535]."""
    return x.contiguous().view(torch.int16).to(torch.int32) & 0xFFFF
