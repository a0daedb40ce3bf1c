"""Decoding, its squared error and what the codes get of its gradient, in one pass over the rows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _codes
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.codes import Codes

OP = Op("decode_error")


class Errors(NamedTuple):
    """`errors` float32 `[B, G, E]`, `losses` float64 `[B, G]`, `d_values` float32 `[n]`."""

    errors: torch.Tensor
    losses: torch.Tensor
    d_values: torch.Tensor


def decode_error(
    codes: Codes,
    W_dec: torch.Tensor,
    target: torch.Tensor,
    *,
    bias: torch.Tensor,
    base: torch.Tensor | None = None,
    prefixes: tuple[int, ...] | None = None,
    weights: tuple[float, ...] = (1.0,),
    errors: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> Errors:
    """The error of nested reconstructions and its gradients.

    Reconstruction g, `recon_g = base + bias + sum of value * W_dec[index]`, takes the entries of latents
    below `prefixes[g]`; one prefix, all of them, where none are given (Matryoshka SAEs, arXiv:2503.17547).
    With the loss `sum over g, b of weights[g] * |recon_g[b] - target[b]|^2`:

    `losses[b, g]`: `|recon_g[b] - target[b]|^2`, summed in float64. `errors[b, g]`: the gradient at what a
    latent of group g (`prefixes[g - 1] <= m < prefixes[g]`) adds to row b, `sum over h >= g of 2 weights[h]
    (recon_h - target)`; that at the bias and the base is `errors[:, 0]`. `d_values[i]`: at entry i's value,
    `errors[b, g] . W_dec[index]`.

    `W_dec` `[M, E]`, `target` and `base` `[B, E]`, `bias` `[E]`: contiguous float32 on one device. `errors`:
    a buffer `[B, G, E]` to write to.
    """
    device = _codes.codes_on("decode_error", codes)
    ends = _codes.ends_of("decode_error", prefixes, codes.width)
    if len(weights) != len(ends):
        raise ArgumentError(f"decode_error: got {len(weights)} weights, expected {len(ends)}: one a prefix")
    rows, width = codes.rows, W_dec.shape[-1]
    _codes.tensor("decode_error", "W_dec", W_dec, (codes.width, width), device)
    _codes.tensor("decode_error", "target", target, (rows, width), device)
    _codes.tensor("decode_error", "bias", bias, (width,), device)
    if base is not None:
        _codes.tensor("decode_error", "base", base, (rows, width), device)
    shape = (rows, len(ends), width)
    if errors is None:
        errors = torch.empty(shape, device=device)
    _codes.tensor("decode_error", "errors", errors, shape, device)
    losses = torch.empty((rows, len(ends)), dtype=torch.float64, device=device)
    out = Errors(errors, losses, torch.empty_like(codes.values))
    module = OP.pick(backend, device.type, codes, W_dec, ends)
    module.decode_error(
        codes, W_dec.detach(), target, bias.detach(), base, ends, weights, out, thread_count(threads)
    )
    return out
