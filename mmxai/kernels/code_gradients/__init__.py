"""The gradients of an encoder's and a decoder's rows from sparse codes, gathered latent by latent."""

from __future__ import annotations

import torch

from mmxai.kernels import _codes
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.codes import Codes

OP = Op("code_gradients")


def code_gradients(
    codes: Codes,
    d_pre: torch.Tensor,
    errors: torch.Tensor,
    x: torch.Tensor,
    g_dec: torch.Tensor,
    g_enc: torch.Tensor,
    g_bias: torch.Tensor,
    *,
    prefixes: tuple[int, ...] | None = None,
    project: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Writes, for each latent m and over its entries i (of row b, in the order of rows):

    `g_dec[m] = sum of values[i] * errors[b, g]`, g the group of m as in `decode_error`; with `project` (the
    decoder `[M, E]`, whose rows are unit vectors) less its part along `project[m]`. `g_enc[m] = sum of
    d_pre[i] * x[b]`. `g_bias[m] = sum of d_pre[i]`. Zeros for a latent without entries. Returns the sum of
    the squares of all that was written for each latent, float64 `[M]`.

    `d_pre` `[n]`, `errors` `[B, G, E]`, `x` `[B, D]`, `g_dec` `[M, E]`, `g_enc` `[M, D]`, `g_bias` `[M]`:
    contiguous float32 on one device. The same bits whatever the number of threads.
    """
    device = _codes.codes_on("code_gradients", codes)
    ends = _codes.ends_of("code_gradients", prefixes, codes.width)
    rows, latents, out_width, in_width = codes.rows, codes.width, errors.shape[-1], x.shape[-1]
    expected = {
        "d_pre": (d_pre, (len(codes.values),)),
        "errors": (errors, (rows, len(ends), out_width)),
        "x": (x, (rows, in_width)),
        "g_dec": (g_dec, (latents, out_width)),
        "g_enc": (g_enc, (latents, in_width)),
        "g_bias": (g_bias, (latents,)),
    }
    if project is not None:
        expected["project"] = (project, (latents, out_width))
    for name, (given, shape) in expected.items():
        _codes.tensor("code_gradients", name, given, shape, device)
    squares = torch.empty(latents, dtype=torch.float64, device=device)
    module = OP.pick(backend, device.type, codes, errors, x)
    module.code_gradients(
        codes, d_pre, errors, x, (g_dec, g_enc, g_bias, squares), ends, project, thread_count(threads)
    )
    return squares
