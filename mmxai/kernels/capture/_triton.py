"""`capture` in Triton: one pass over x, then two small kernels that take what it found into the state.

A call is cut into passes of at most as many rows as were seen before (`_passes`): the k-th values then let about k
values a column through, a buffer of ROOM holds them, and the first pass, which lets everything through, is as
long as that buffer. What does not fit is found again by reading the column once more, on the device: no pass
waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import as_bits
from mmxai.kernels.capture._triton_merge import fold, select
from mmxai.kernels.capture._triton_tiles import capture_tiles, row_scales
from mmxai.kernels.capture.state import NeuronState

UNROLL, LANES, COLS = 4, 8, 256
"""A program's tile: UNROLL x LANES rows of COLS columns, 32 values a thread."""
DEPTH = 512
"""Most rows a program takes: 64 a lane, which keeps the sums in float32 as exact as the op promises."""
WARPS = 8


def supports(
    x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor | None, state: NeuronState | None
) -> str | None:
    rows = x.shape[0] * x.shape[1]
    return None if rows < 1 << 30 else f"{rows} rows at once, it counts to 2^30"


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
    overflow = torch.zeros(1, dtype=torch.int64, device=x.device)
    enqueue(x, index, out, state, row0, samples, scales, overflow)
    # Reading the count waits for the GPU; where nothing can overflow there is nothing to wait for.
    return int(overflow.item()) if can_overflow(x, out) else 0


def can_overflow(x: torch.Tensor, out: torch.Tensor | None) -> bool:
    return out is not None and out.dtype not in (torch.int8, torch.float32, x.dtype)


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
    """`capture` without waiting: adds to `overflow` int64 `[1]`. With `cursor` (int64 `[row0, rows seen]` on the
    device) those two are read there, and `row0` and `state.count` are added to them."""
    count = x.shape[0] * x.shape[1] if index is None else len(index)
    job = _Job(x, index, out, state, samples, scales, overflow, cursor)
    seen = 0 if state is None else state.count
    cut = state is None or cursor is not None
    for start, stop in [(0, count)] if cut else passes(count, seen, room(state)):
        job.run(start, stop, row0, seen)


def room(state: NeuronState | None) -> int:
    """Values of a column that a pass has room for."""
    return 64 if state is None else max(64, 4 * triton.next_power_of_2(state.k))


def passes(count: int, seen: int, first: int) -> Iterator[tuple[int, int]]:
    """Runs of `count` rows, each at most as long as all before it, those `seen` included; the first may be `first`."""
    start = 0
    while start < count:
        stop = min(count, start + max(first, seen + start))
        yield start, stop
        start = stop


@dataclass
class _Job:
    x: torch.Tensor
    index: torch.Tensor | None
    out: torch.Tensor | None
    state: NeuronState | None
    samples: torch.Tensor | None
    scales: torch.Tensor | None
    overflow: torch.Tensor
    cursor: torch.Tensor | None

    def run(self, start: int, stop: int, row0: int, seen: int) -> None:
        """Rows `start` to `stop` of those kept."""
        x, out, n = self.x, self.out, stop - start
        tokens, width = x.shape[1], x.shape[2]
        flat = x.shape[0] == 1 or x.stride(0) == tokens * x.stride(1)
        source = FLOATS.index(x.dtype)
        target = 4 if out is None else 3 if out.dtype == torch.int8 else FLOATS.index(out.dtype)
        bits, index = as_bits(x), None if self.index is None else self.index[start:stop]
        if index is None and start:
            # Without an index rows count from the first of x, so passes after the first need one.
            index = torch.arange(start, stop, device=x.device)
        scales = None if self.scales is None else self.scales[start:stop]
        layout = (n, width, tokens, x.stride(0), x.stride(1), x.stride(2))
        if scales is not None:
            cols = min(4096, max(16, triton.next_power_of_2(width)))
            row_scales[(n,)](bits, index, scales, *layout, source, flat, cols)
        state = self.state
        blocks = triton.cdiv(n, DEPTH)
        depth = triton.cdiv(triton.cdiv(n, blocks), UNROLL * LANES) * UNROLL * LANES
        stored = None if out is None else (out if target == 3 else as_bits(out))[start:stop]
        ...
