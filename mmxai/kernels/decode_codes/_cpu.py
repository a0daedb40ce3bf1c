"""`decode_codes` in C++: csrc/core/codes.h."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._codes import arrays, optional
from mmxai.kernels.codes import Codes


def supports(codes: Codes, W_dec: torch.Tensor) -> str | None:
    return None


def decode_codes(
    codes: Codes,
    W_dec: torch.Tensor,
    bias: torch.Tensor | None,
    base: torch.Tensor | None,
    out: torch.Tensor,
    threads: int,
) -> None:
    native = _native.cpu().loaded()
    native.decode_codes(*arrays(codes), W_dec.numpy(), optional(bias), optional(base), out.numpy(), threads)
