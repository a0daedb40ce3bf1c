"""`pack` in CUDA: csrc/cuda/pack.cu. Tensors cross by address, on torch's current stream."""

from __future__ import annotations

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS


def supports(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor) -> str | None:
    return None


def pack(x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor, threads: int) -> int:
    module = _native.cuda().loaded()
    with torch.cuda.device(x.device):
        overflow = torch.zeros(1, dtype=torch.int64, device=x.device)
        module.pack(
            x.data_ptr(),
            FLOATS.index(x.dtype),
            tuple(x.shape),
            x.stride(),
            0 if index is None else index.data_ptr(),
            len(out),
            out.data_ptr(),
            FLOATS.index(out.dtype),
            overflow.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
        # Reading the count waits for the GPU; where nothing can overflow there is nothing to wait for.
        if x.dtype == out.dtype or out.dtype == torch.float32:
            return 0
        return int(overflow.item())
