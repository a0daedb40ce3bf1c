"""`capture` in CUDA: csrc/cuda/capture.cu. Tensors cross by address, on torch's current stream."""

from __future__ import annotations

from typing import Any

import torch

from mmxai.kernels import _native
from mmxai.kernels._args import FLOATS
from mmxai.kernels.capture._passes import (
    Workspace,
    depth,
    lists,
    passes,
    room,
    supports,
    target,
    waiting,
)
from mmxai.kernels.capture.state import NeuronState

__all__ = ["capture", "enqueue", "supports"]


def enqueue(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
    overflow: torch.Tensor,
    cursor: torch.Tensor | None = None,
) -> None:
    """`capture` without waiting: adds to `overflow` int64 `[1]`. With `cursor` (int64 `[row0, rows seen]` on
    the device) those two are read there, and `row0` and `state.count` are added to them."""
    module = _native.cuda().loaded()
    count = x.shape[0] * x.shape[1] if index is None else len(index)
    seen = 0 if state is None else state.count
    alone = state is None or cursor is not None  # a graph's passes are the same whatever was seen by then
    runs = passes(count, count, 1) if state is None or alone else passes(count, seen, room(state.k))
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        for start, stop in runs:
            n, deep = stop - start, depth(stop - start, 32)
            rows = {
                "x": x.data_ptr(), "from_dtype": FLOATS.index(x.dtype), "to_dtype": target(out),
                "shape": (x.shape[1], x.shape[2]), "strides": x.stride(), "n": n, "depth": deep,
                "index": _address(index, start), "begin": start if index is None else 0,
                "out": _address(out, start), "scales": _address(scales, start),
                "samples": _address(samples, start), "overflow": overflow.data_ptr(), "stream": stream,
            }  # fmt: skip
            if state is not None:
                work = Workspace(state, n, deep)
                rows |= _statistics(state, work, row0 + start, seen + stop, cursor)
            module.capture(rows)


capture = waiting(enqueue)


def _statistics(
    state: NeuronState, work: Workspace, row0: int, seen: int, cursor: torch.Tensor | None
) -> dict[str, Any]:
    kept = [
        (
            _address(values),
            _address(rows),
            _address(samples),
            _address(work.numbers, i),
            _address(work.found, i),
        )
        for i, (_, values, rows, samples) in enumerate(lists(state))
    ]
    kept.append((0,) * 5)
    return {
        "tallies": _address(state.tallies), "moments": _address(state.moments),
        "extremes": _address(state.extremes), "top": kept[0], "bottom": kept[1], "k": state.k,
        "room": room(state.k), "row0": row0, "seen": seen, "cursor": _address(cursor),
        "tile_moments": _address(work.moments), "tile_extremes": _address(work.extremes),
        "tile_counts": _address(work.counts),
    }  # fmt: skip


def _address(x: torch.Tensor | None, row: int = 0) -> int:
    """Of a row of a contiguous tensor; 0 for None."""
    return 0 if x is None else x.data_ptr() + row * x.stride(0) * x.element_size()
