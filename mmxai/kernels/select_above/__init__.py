"""What of a block of pre-activations is above a threshold."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _codes
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.codes import Codes

OP = Op("select_above")


def select_above(
    x: torch.Tensor,
    cut: torch.Tensor | float,
    *,
    bias: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> Codes:
    """The entries of `x + bias` that are above `cut`, by index; NaN is above nothing.

    `x` float32 `[R, M]` with contiguous rows, `bias` float32 `[M]`, `cut` one number or float32 `[M]`.
    """
    if x.ndim != 2 or x.dtype != torch.float32 or x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"select_above: x is {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected (R, M) of "
            "float32 on cpu or cuda"
        )
    for name, vector in (("bias", bias), ("cut", cut)):
        if isinstance(vector, torch.Tensor):
            _codes.tensor("select_above", name, vector, (x.shape[1],), x.device)
    x = x.detach()
    if not len(x):
        none = torch.empty(0, device=x.device)
        return Codes(none, none.to(torch.int32), none.new_zeros(1, dtype=torch.int64), x.shape[1])
    x = x if x.stride(1) == 1 else x.contiguous()
    bias = None if bias is None else bias.detach()
    cut = cut.detach() if isinstance(cut, torch.Tensor) else float(cut)
    module = OP.pick(backend, x.device.type, x)
    values, indices, counts = module.select_above(x, cut, bias, thread_count(threads))
    offsets = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return Codes(values, indices, offsets, x.shape[1])
