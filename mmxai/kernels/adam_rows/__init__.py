"""A step of Adam on a matrix, and its rows made unit vectors again, in one pass."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _codes
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("adam_rows")


def adam_rows(
    w: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    step: int,
    scale: float | torch.Tensor = 1.0,
    decay: float = 0.0,
    unit: bool = False,
    threads: int | None = None,
    backend: str = "auto",
) -> None:
    """Updates `w`, `m` and `v` in place, as torch.optim.AdamW does (arXiv:1711.05101; Adam where decay is 0).

    `w`, the gradient `g` and the moments `m`, `v`: contiguous float32 `[R, D]` on one device. `scale`
    multiplies the gradient (clipping), and where it is NaN nothing is changed; a number, or float32 `[1]` on
    the device, which then is not waited for. `step`: the number of this step, from 1. `unit`: each row of `w`
    is divided by its norm afterwards; a row of zeros stays.
    """
    if w.ndim != 2 or w.device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"adam_rows: w is {tuple(w.shape)} on {w.device}, expected (R, D) on cpu or cuda")
    for name, x in (("w", w), ("g", g), ("m", m), ("v", v)):
        _codes.tensor("adam_rows", name, x, tuple(w.shape), w.device)
    if isinstance(scale, torch.Tensor):
        _codes.tensor("adam_rows", "scale", scale, (1,), w.device)
    if step < 1:
        raise ArgumentError(f"adam_rows: got step {step}, expected them to count from 1")
    module = OP.pick(backend, w.device.type, w)
    fixed = (lr, *betas, eps, 1 - betas[0] ** step, 1 - betas[1] ** step, decay)
    module.adam_rows(w.detach(), g, m, v, fixed, scale, unit, thread_count(threads))
