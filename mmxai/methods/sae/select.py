"""Which latents of a block of pre-activations are active, when the SAE is used (training: `arch`)."""

from __future__ import annotations

import torch

from mmxai.kernels.codes import Codes
from mmxai.kernels.select_above import select_above
from mmxai.kernels.topk_rows import topk_rows
from mmxai.methods.sae.spec import SAESpec


def select(spec: SAESpec, threshold: torch.Tensor | None, pre: torch.Tensor) -> Codes:
    """The codes of `pre` float32 `[B, M]`.

    topk: always k a row; a row with fewer than k positive pre-activations has zeros among its values.
    The others: those that are positive and above their threshold, in rising order of the latent.
    """
    if spec.arch == "topk":
        assert spec.k is not None  # SAESpec has checked
        return topk_codes(*topk_rows(pre, spec.k), spec.latents)
    return select_above(pre, 0.0 if threshold is None else threshold.float().clamp_min(0).contiguous())


def topk_codes(values: torch.Tensor, indices: torch.Tensor, latents: int) -> Codes:
    """Of the k largest pre-activations of every row, `values` (taken over) and `indices` `[B, K]`."""
    return Codes.fixed(values.clamp_min_(0), indices, latents)
