"""`topk_product` in C++: csrc/core/topk_product.h."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmxai.kernels import _native

MOST = 128
LEAST = 512


def supports(x: torch.Tensor, w: torch.Tensor, k: int) -> str | None:
    native = _native.cpu().loaded()
    if not (hasattr(native, "topk_product") and native.topk_product_runs()):
        return "this processor has no AVX512-BF16"
    if k > MOST:
        return f"k = {k}, it keeps at most {MOST}"
    return None if len(w) >= LEAST else f"{len(w)} latents, from {LEAST} on it is quicker"


def topk_product(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    indices: torch.Tensor,
    scratch: Callable[[int], torch.Tensor],
    threads: int,
) -> None:
    native = _native.cpu().loaded()
    size = native.topk_product_scratch(len(x), *w.shape, threads)
    arrays = (t.numpy() for t in (x, w, bias, values, indices, scratch(size)))
    native.topk_product(*arrays, threads)
