"""The specification of `decode_codes`."""

from __future__ import annotations

import torch

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
    torch.mm(codes.dense(), W_dec, out=out)
    for start in (bias, base):
        if start is not None:
            out += start.detach()
