"""From a hook's tensor to rows in storage dtype: strided read, selection and conversion in one pass."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("pack")


def pack(
    x: torch.Tensor,
    keep: torch.Tensor | None,
    out: torch.Tensor,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> int:
    """Write the kept rows of `x` `[B, T, D]` to `out` `[N, D]` in (b, t) order; returns the overflow count.

    `x`: float32, bfloat16 or float16 with any strides, so that a convolution's map `[B, C, H, W]` may be
    viewed as `[B, H * W, C]`. `keep`: bool `[B, T]` with N True, or None to keep all N = B * T. `out`:
    contiguous, any of the three dtypes. Rounds to nearest even; a NaN stays a NaN (which one:
    `mmxai/kernels/_convert.py`). The overflow count is the number of values that are finite in `x` and not
    in `out`. `threads`: None takes as many as torch does (CPU only).
    """
    if x.ndim != 3 or x.dtype not in FLOATS:
        raise ArgumentError(f"pack: x is {x.dtype} of shape {tuple(x.shape)}, expected (B, T, D) of {_NAMES}")
    batch, tokens, width = x.shape
    if keep is not None and (keep.dtype != torch.bool or tuple(keep.shape) != (batch, tokens)):
        raise ArgumentError(
            f"pack: keep is {keep.dtype} {tuple(keep.shape)}, expected torch.bool ({batch}, {tokens})"
        )
    others = {t.device for t in (out, keep) if t is not None}
    if others != {x.device}:
        raise ArgumentError(f"pack: x is on {x.device}, out and keep on {others}; expected one device")
    if x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"pack: got tensors on {x.device}, expected cpu or cuda")
    # Rows of the flattened (b, t) grid. One definition of the order, shared by all backends.
    index = None if keep is None else keep.reshape(-1).nonzero().reshape(-1)
    count = batch * tokens if index is None else len(index)
    if out.dtype not in FLOATS or tuple(out.shape) != (count, width) or not out.is_contiguous():
        raise ArgumentError(
            f"pack: out is {out.dtype} of shape {tuple(out.shape)}, strides {out.stride()}; "
            f"expected contiguous ({count}, {width}) of {_NAMES}"
        )
    if out.numel() == 0:
        return 0
    module = OP.pick(backend, x.device.type, x, index, out)
    return module.pack(x.detach(), index, out, thread_count(threads))


_NAMES = "float32, bfloat16 or float16"
