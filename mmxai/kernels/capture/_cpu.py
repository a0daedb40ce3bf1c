"""`capture` in C++: csrc/core/capture.h, and quantise.h for int8."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS, bits
from mmxai.kernels.capture.state import NeuronState


def supports(
    x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor | None, state: NeuronState | None
) -> str | None:
    return None


def capture(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
    threads: int,
) -> int:
    native = _native.cpu().loaded()
    source, rows = FLOATS.index(x.dtype), None if index is None else index.numpy()
    target = torch.float32 if out is None else out.dtype
    if out is not None and scales is not None:
        native.quantise(bits(x), source, rows, out.numpy(), scales.numpy(), threads)
        out, target = None, torch.bfloat16  # what the statistics are of
    if state is None:
        return 0
    overflow = native.capture(
        bits(x),
        source,
        rows,
        x.shape[0] * x.shape[1] if index is None else len(index),
        None if out is None else bits(out),
        FLOATS.index(target),
        state.count,
        state.tallies.numpy(),
        state.moments.numpy(),
        state.extremes.numpy(),
        state.k,
        _arrays(state.top_values, state.top_rows, state.top_samples),
        _arrays(state.bottom_values, state.bottom_rows, state.bottom_samples),
        _array(samples),
        row0,
        threads,
    )
    return overflow if out is not None else 0


def _array(x: torch.Tensor | None) -> np.ndarray | None:
    return None if x is None else x.numpy()


def _arrays(*tensors: torch.Tensor | None) -> tuple[np.ndarray | None, ...]:
    return tuple(_array(x) for x in tensors)
