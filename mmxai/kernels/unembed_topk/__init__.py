"""The logit lens' op: states through the unembedding, without the logits `[N, V]` that it makes."""

from __future__ import annotations

import math

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.unembed_topk._job import Job, UnembedTopk

__all__ = ["OP", "UnembedTopk", "unembed_topk"]

OP = Op("unembed_topk")
_MOST = 2**31 - 1


def unembed_topk(
    states: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    k: int = 5,
    targets: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    final: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> UnembedTopk:
    """What logits softcap(scale states . weight^T + bias) say, row by row; softcap(x) is c tanh(x / c).

    `states` `[N, D]`, after the final norm; `weight` `[V, D]`: each float32, bfloat16 or float16, any
    strides, on one device; products and sums are those of float32. `bias` `[V]`; -inf leaves a token out.
    `targets` int64 `[N, T]`: tokens whose logits and ranks are wanted, -1 for none. `reference` int64 `[N]`:
    for each row the row of `final` `[F, D]` (by default of `states` themselves), normed too, from whose
    distribution the divergence is taken; where a token has no probability there, the term is 0. Logits that
    float32 cannot tell apart (2^-23 of |state| |weight row|) are equal to a target's and do not count in its
    rank. Nothing is differentiated.
    """
    _rows("states", states, states.device)
    _rows("weight", weight, states.device)
    vocabulary, width = weight.shape
    if states.shape[1] != width or not 1 <= vocabulary <= _MOST:
        raise ArgumentError(
            f"unembed_topk: states are {tuple(states.shape)} and weight {tuple(weight.shape)}, expected "
            "(N, D) and (V, D), V at least 1"
        )
    if not 1 <= k <= vocabulary:
        raise ArgumentError(f"unembed_topk: got k={k}, expected 1 <= k <= {vocabulary}, the vocabulary")
    if not math.isfinite(scale) or (softcap is not None and not (softcap > 0 and math.isfinite(softcap))):
        raise ArgumentError(
            f"unembed_topk: got scale {scale} and softcap {softcap}, expected finite ones, softcap above 0 "
            "or None"
        )
    if bias is not None and (
        bias.shape != (vocabulary,) or bias.dtype not in FLOATS or bias.device != states.device
    ):
        raise ArgumentError(
            f"unembed_topk: bias is {bias.dtype} of shape {tuple(bias.shape)} on {bias.device}, expected "
            f"({vocabulary},) of float32, bfloat16 or float16 on {states.device}"
        )
    if final is not None:
        _rows("final", final, states.device)
        if final.shape[1] != width or reference is None:
            raise ArgumentError(
                f"unembed_topk: final is {tuple(final.shape)} with reference {reference}, expected "
                f"(F, {width}) and a row of it for every state"
            )
    n = len(states)
    if targets is None:
        targets = torch.empty((n, 0), dtype=torch.int64, device=states.device)
    _ids("targets", targets, (n, targets.shape[-1]), -1, vocabulary, states.device)
    if reference is not None:
        _ids("reference", reference, (n,), 0, len(states if final is None else final), states.device)
    states, weight = states.detach(), weight.detach()
    job = Job(
        states, weight, None if bias is None else bias.detach().float().contiguous(), scale, softcap, targets,
        reference, None if final is None else final.detach(),
    )  # fmt: skip
    out = _empty(n, k, targets.shape[1], reference is not None, states.device)
    if n:
        with torch.no_grad():
            OP.pick(backend, states.device.type, job, k).unembed_topk(job, out, thread_count(threads))
    return out


def _empty(n: int, k: int, targets: int, compared: bool, device: torch.device) -> UnembedTopk:
    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device=device)

    ids = torch.empty((n, k), dtype=torch.int32, device=device)
    ranks = torch.empty((n, targets), dtype=torch.int64, device=device)
    kl = floats(n) if compared else None
    return UnembedTopk(floats(n, k), ids, floats(n), floats(n), floats(n, targets), ranks, kl)


def _rows(name: str, x: torch.Tensor, device: torch.device) -> None:
    if x.ndim != 2 or x.dtype not in FLOATS or x.device.type not in ("cpu", "cuda") or x.device != device:
        raise ArgumentError(
            f"unembed_topk: {name} is {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected two "
            "dimensions of float32, bfloat16 or float16, all on one device, cpu or cuda"
        )


def _ids(
    name: str, x: torch.Tensor, shape: tuple[int, ...], least: int, end: int, device: torch.device
) -> None:
    if x.dtype != torch.int64 or x.shape != shape or x.device != device:
        raise ArgumentError(
            f"unembed_topk: {name} is {x.dtype} of shape {tuple(x.shape)} on {x.device}, expected int64 of "
            f"shape {shape} on {device}"
        )
    if x.numel() and (int(x.min()) < least or int(x.max()) >= end):
        raise ArgumentError(
            f"unembed_topk: {name} go from {int(x.min())} to {int(x.max())}, expected {least} to {end - 1}"
        )
