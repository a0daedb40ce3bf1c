"""The specification of `decode_codes`: dense products, of a block of rows at a time."""

from __future__ import annotations

import torch

from mmxai.kernels._codes import dense_blocks
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
    for rows, _, part in dense_blocks(codes):
        torch.mm(part.dense(), W_dec, out=out[rows])
    for start in (bias, base):
        if start is not None:
            out += start.detach()
