"""The sum of a dictionary's rows that sparse codes ask for."""

from __future__ import annotations

import torch

from mmxai.kernels import _codes
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.codes import Codes

OP = Op("decode_codes")


def decode_codes(
    codes: Codes,
    W_dec: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """float32 `[B, E]`: `base + bias + sum of value * W_dec[index]` over each row's entries.

    `W_dec` `[M, E]`, `bias` `[E]`, `base` `[B, E]`: contiguous float32 on the codes' device. A row is summed
    in the order of its entries.
    """
    device = _codes.codes_on("decode_codes", codes)
    width = W_dec.shape[-1]
    _codes.tensor("decode_codes", "W_dec", W_dec, (codes.width, width), device)
    if bias is not None:
        _codes.tensor("decode_codes", "bias", bias, (width,), device)
    if base is not None:
        _codes.tensor("decode_codes", "base", base, (codes.rows, width), device)
    out = torch.empty((codes.rows, width), device=device)
    module = OP.pick(backend, device.type, codes, W_dec)
    module.decode_codes(codes, W_dec.detach(), bias, base, out, thread_count(threads))
    return out
