"""Sums of logarithms over gathered rows: how likely a word makes the pictures that a unit likes."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("log_products")


def log_products(
    p: torch.Tensor,
    tops: torch.Tensor,
    weights: torch.Tensor,
    *,
    floor: float = 1e-7,
    threads: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """float32 `[n, W]`: sum over j of log(1 + weights[j] (p[tops[:, j]] - 1) + floor).

    `p` float32 `[N, W]`, probabilities of W words given each of N pictures; `tops` int32 or int64 `[n, k]`,
    the k pictures of each of n units; `weights` float32 `[k]` in [0, 1]; `floor` > 0. With weights falling
    from 0.998 to 0.97 this is log p(unit | word) of SoftWPMI (CLIP-Dissect, Oikarinen and Weng 2023,
    arXiv:2204.10965), with weights of 1 that of WPMI. Within 1e-6 of what float64 gives, relative.
    """
    if p.ndim != 2 or p.dtype != torch.float32 or p.device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"log_products: p is {p.dtype} of shape {tuple(p.shape)} on {p.device}, expected (N, W) of "
            "float32 on cpu or cuda"
        )
    if tops.ndim != 2 or tops.dtype not in (torch.int32, torch.int64) or tops.device != p.device:
        raise ArgumentError(
            f"log_products: tops are {tops.dtype} of shape {tuple(tops.shape)} on {tops.device}, expected "
            f"(n, k) of int32 or int64 on {p.device}"
        )
    if tops.numel() and (int(tops.min()) < 0 or int(tops.max()) >= len(p)):
        raise ArgumentError(
            f"log_products: got pictures {int(tops.min())} to {int(tops.max())}, expected 0 to {len(p) - 1}"
        )
    if weights.shape != tops.shape[1:] or weights.dtype != torch.float32 or weights.device != p.device:
        raise ArgumentError(
            f"log_products: weights are {weights.dtype} of shape {tuple(weights.shape)} on {weights.device}, "
            f"expected float32 of shape ({tops.shape[1]},) on {p.device}"
        )
    if not floor > 0 or not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ArgumentError(
            f"log_products: got floor {floor} and weights {weights.tolist()[:3]}, expected floor > 0 and "
            "weights in [0, 1]"
        )
    out = torch.empty((len(tops), p.shape[1]), device=p.device)
    if out.numel():
        p = p.detach() if p.stride(1) == 1 else p.detach().contiguous()
        module = OP.pick(backend, p.device.type, p)
        if not module.log_products(
            p, tops.to(torch.int32).contiguous(), weights.contiguous(), floor, out, thread_count(threads)
        ):
            raise ArgumentError("log_products: got p outside [0, 1] (or NaN), expected probabilities")
    return out
