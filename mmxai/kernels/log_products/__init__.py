"""Sums of logarithms over gathered rows: how likely a word makes the pictures that a unit likes."""

from __future__ import annotations

import math

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("log_products")


def log_norms(
    x: torch.Tensor, scale: float = 1.0, *, threads: int | None = None, backend: str = "auto"
) -> torch.Tensor:
    """The logarithm of the sum of exp(scale x) over each row of `x` float32 `[N, W]`: float32 `[N]`.

    exp(scale x - norm) is softmax(scale x). Every value must be finite.
    """
    x = _rows("log_norms", "x", x)
    if not math.isfinite(scale) or not x.shape[1]:
        raise ArgumentError(
            f"log_norms: got scale {scale}, {x.shape[1]} words, expected finite, at least one"
        )
    out = torch.empty(len(x), device=x.device)
    if len(x):
        OP.pick(backend, x.device.type, x).log_norms(x, scale, out, thread_count(threads))
    if not bool(out.isfinite().all()):
        raise ArgumentError("log_norms: got values that are not finite, expected finite similarities")
    return out


def log_products(
    p: torch.Tensor,
    tops: torch.Tensor,
    weights: torch.Tensor,
    *,
    floor: float = 1e-7,
    scale: float | None = None,
    norms: torch.Tensor | None = None,
    marginal: float = 0.0,
    threads: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """float32 `[n, W]`: sum over j of log(1 + weights[j] (p[tops[:, j]] - 1) + floor).

    `p` float32 `[N, W]`, probabilities of W words given each of N pictures; or, with a `scale`, similarities,
    of which exp(scale p - norms) is taken as the work goes: with `norms` float32 `[N]`, the `log_norms` of
    all words where these are some of them; by default those of these words. `tops` int32 or int64 `[n, k]`,
    the k pictures of each of n units; `weights` float32 `[k]` in [0, 1]; `floor` > 0.

    With weights falling from 0.998 to 0.97 this is log p(unit | word) of SoftWPMI (CLIP-Dissect, Oikarinen
    and Weng 2023, arXiv:2204.10965), with weights of 1 that of WPMI. `marginal` (their lambda) times the
    logarithm of the mean over the n units of its exponential is then taken off: give it the whole layer.
    Sums are within 1e-6 of what float64 gives, relative.
    """
    p = _rows("log_products", "p", p)
    if tops.ndim != 2 or tops.dtype not in (torch.int32, torch.int64) or tops.device != p.device:
        raise ArgumentError(
            f"log_products: tops are {tops.dtype} of shape {tuple(tops.shape)} on {tops.device}, expected "
            f"(n, k) of int32 or int64 on {p.device}"
        )
    if tops.numel() and (int(tops.min()) < 0 or int(tops.max()) >= len(p)):
        raise ArgumentError(
            f"log_products: got pictures {int(tops.min())} to {int(tops.max())}, expected 0 to {len(p) - 1}"
        )
    _vector("weights", weights, tops.shape[1], p.device)
    if not floor > 0 or not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ArgumentError(
            f"log_products: got floor {floor} and weights {weights.tolist()[:3]}, expected floor > 0 and "
            "weights in [0, 1]"
        )
    if norms is not None:
        _vector("norms", norms, len(p), p.device)
        if scale is None or not math.isfinite(scale):
            raise ArgumentError(f"log_products: got norms and scale {scale}, expected a finite scale")
    out = torch.empty((len(tops), p.shape[1]), device=p.device)
    if out.numel():
        if scale is not None and norms is None:
            norms = log_norms(p, scale, threads=threads, backend=backend)
        by = (norms, tops.to(torch.int32).contiguous(), weights.contiguous())
        module = OP.pick(backend, p.device.type, p)
        if not module.log_products(p, scale or 0.0, *by, floor, marginal, out, thread_count(threads)):
            raise ArgumentError("log_products: got p outside [0, 1] (or NaN), expected probabilities")
    return out


def _rows(op: str, name: str, x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 2 or x.dtype != torch.float32 or x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"{op}: {name} is {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected (N, W) of float32 "
            "on cpu or cuda"
        )
    x = x.detach()
    return x if x.stride(1) == 1 else x.contiguous()


def _vector(name: str, x: torch.Tensor, length: int, device: torch.device) -> None:
    if x.shape != (length,) or x.dtype != torch.float32 or x.device != device or not x.is_contiguous():
        raise ArgumentError(
            f"log_products: {name} are {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected "
            f"contiguous float32 of shape ({length},) on {device}"
        )
