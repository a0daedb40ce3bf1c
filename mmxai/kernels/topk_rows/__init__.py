"""Each row's k largest values: what the store's `topk` profile keeps of wide layers and SAE codes."""

from __future__ import annotations

from typing import Literal

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("topk_rows")


def topk_rows(
    x: torch.Tensor,
    k: int,
    *,
    by: Literal["value", "magnitude"] = "value",
    bias: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of every row of `x` `[N, D]`: values `[N, k]` in x's dtype, indices int32 `[N, k]`.

    Largest first, ties to the lower index; `by="magnitude"` compares absolute values and keeps the signs. As
    in torch.topk a NaN is larger than anything, so that it is not lost; -0.0 ties with 0.0. `x`: float32,
    bfloat16 or float16, any strides; 1 <= k <= D. `bias` `[D]`, with float32 x alone: the rows are
    those of `x + bias`.
    """
    if x.ndim != 2 or x.dtype not in FLOATS:
        raise ArgumentError(
            f"topk_rows: x is {x.dtype} of shape {tuple(x.shape)}, expected (N, D) of float32, bfloat16 or "
            "float16"
        )
    if not 1 <= k <= x.shape[1]:
        raise ArgumentError(f"topk_rows: got k={k}, expected 1 <= k <= {x.shape[1]}, the width")
    if by not in ("value", "magnitude"):
        raise ArgumentError(f"topk_rows: got by={by!r}, expected 'value' or 'magnitude'")
    if x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"topk_rows: got a tensor on {x.device}, expected cpu or cuda")
    if bias is not None and (
        x.dtype != torch.float32
        or bias.dtype != torch.float32
        or bias.device != x.device
        or bias.shape != x.shape[1:]
        or not bias.is_contiguous()
    ):
        raise ArgumentError(
            f"topk_rows: bias is {bias.dtype} of shape {tuple(bias.shape)} on {bias.device}, expected "
            f"contiguous float32 of shape ({x.shape[1]},) beside float32 x on {x.device}"
        )
    values = torch.empty((len(x), k), dtype=x.dtype, device=x.device)
    indices = torch.empty((len(x), k), dtype=torch.int32, device=x.device)
    if len(x):
        x = x.detach()
        x = x if x.stride(1) == 1 else x.contiguous()
        bias = None if bias is None else bias.detach()
        module = OP.pick(backend, x.device.type, x, values)
        module.topk_rows(x, bias, values, indices, by == "magnitude", thread_count(threads))
    return values, indices
