"""`topk_product` in C++: csrc/core/topk_product.h."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmxai.kernels import _native
from mmxai.kernels.topk_product import reference

MOST = 128
LEAST = 512


def unavailable() -> str | None:
    native = _native.cpu().loaded()
    if not hasattr(native, "topk_product"):
        return "it was not compiled in, the compiler or assembler had no AVX512-BF16"
    return None if native.topk_product_runs() else "this processor has no AVX512-BF16"


def supports(x: torch.Tensor, w: torch.Tensor, k: int) -> str | None:
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
    if native.topk_product(*arrays, threads) < 0:  # a weight is not finite: no bound proves anything
        reference.topk_product(x, w, bias, values, indices, scratch, threads)
