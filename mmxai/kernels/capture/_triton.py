"""`capture` in Triton: one pass over x, then two small kernels that take what it found into the state.

A call is cut into passes of at most as many rows as were seen before (`_passes`): the k-th values then let about k
values a column through, of which the first pass notes the rows, and the pass of a new state, which lets
everything through, is no longer than there is room for. What does not fit is found again by reading the column once more, on the device: no pass
waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import as_bits
from mmxai.kernels.capture._triton_merge import fold, select
from mmxai.kernels.capture._triton_tiles import capture_tiles, mend, row_scales
from mmxai.kernels.capture.state import NeuronState

UNROLL, LANES, COLS = 4, 8, 256
"""A program's tile: UNROLL x LANES rows of COLS columns, 32 values a thread."""
DEPTH = 512
"""Most rows a program takes: 64 a lane, which keeps the sums in float32 as exact as the op promises."""


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
    seen = 0 if state is None else state.count
    target = 4 if out is None else 3 if out.dtype == torch.int8 else FLOATS.index(out.dtype)
    stored = out if out is None or target == 3 else as_bits(out)
    whole = state is None or cursor is not None  # a graph replays one pass, whatever was seen
    for start, stop in [(0, count)] if whole else passes(count, seen, UNROLL * room(state)):
        rows = _Pass(x, index, samples, target, start, stop)
        part = None if scales is None else scales[start:stop]
        if part is not None:
            rows.scale(part)
        place = None if stored is None else stored[start:stop]
        rows.take(place, part, overflow, state, row0 + start, seen + start, cursor)


def room(state: NeuronState) -> int:
    """Groups of UNROLL rows that a pass can note in a column."""
    return max(64, 4 * triton.next_power_of_2(state.k))


def passes(count: int, seen: int, first: int) -> Iterator[tuple[int, int]]:
    """Runs of `count` rows, each at most as long as all before it, those `seen` included; the first may be `first`."""
    start = 0
    while start < count:
        stop = min(count, start + max(first, seen + start))
        yield start, stop
        start = stop


class _Pass:
    """Rows `start` to `stop` of those kept."""

    def __init__(
        self,
        x: torch.Tensor,
        index: torch.Tensor | None,
        samples: torch.Tensor | None,
        target: int,
        start: int,
        stop: int,
    ):
        self.n, self.device = stop - start, x.device
        self.index = None if index is None else index[start:stop]
        self.samples = None if samples is None else samples[start:stop]
        self.bits, self.width = as_bits(x), x.shape[2]
        strides = (x.stride(0), x.stride(1), x.stride(2))
        self.layout = (self.n, self.width, start if index is None else 0, x.shape[1], *strides)
        flat = x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1)
        self.kinds = {"SOURCE": FLOATS.index(x.dtype), "TARGET": target, "FLAT": flat}

    def scale(self, scales: torch.Tensor) -> None:
        cols = min(4096, max(16, triton.next_power_of_2(self.width)))
        kinds = {"SOURCE": self.kinds["SOURCE"], "FLAT": self.kinds["FLAT"]}
        row_scales[(self.n,)](self.bits, self.index, scales, *self.layout, **kinds, COLS=cols, **_FEW)

    def take(
        self,
        out: torch.Tensor | None,
        scales: torch.Tensor | None,
        overflow: torch.Tensor,
        state: NeuronState | None,
        row0: int,
        seen: int,
        cursor: torch.Tensor | None,
    ) -> None:
        unroll = 1 if self.kinds["TARGET"] == 3 else UNROLL  # exact division takes registers
        blocks = triton.cdiv(self.n, DEPTH)
        depth = triton.cdiv(triton.cdiv(self.n, blocks), UNROLL * LANES) * UNROLL * LANES
        blocks = triton.cdiv(self.n, depth)
        grid = (triton.cdiv(self.width, COLS), blocks)
        if state is None:
            nothing = (None,) * 9
            capture_tiles[grid](
                self.bits, self.index, out, scales, overflow, *nothing, *self.layout, depth,
                **self.kinds, STATS=False, ROOM=1, UNROLL=unroll, LANES=LANES, COLS=COLS, **_OPTIONS,
            )  # fmt: skip
            return
        moments = torch.empty((blocks, 2, self.width), dtype=torch.float64, device=self.device)
        extremes = torch.empty((blocks, 2, self.width), dtype=torch.float32, device=self.device)
        counts = torch.empty((blocks, 2, self.width), dtype=torch.int32, device=self.device)
        lists = list(_lists(state))
        space = room(state)
        numbers = torch.zeros((len(lists), self.width), dtype=torch.int32, device=self.device)
        found = torch.empty((len(lists), self.width, space), dtype=torch.int32, device=self.device)
        searched: list[torch.Tensor | None] = [None] * 6
        for i, (_, values, _, _) in enumerate(lists):
            searched[3 * i : 3 * i + 3] = [values[-1], numbers[i], found[i]]
        capture_tiles[grid](
            self.bits, self.index, out, scales, overflow, *searched, moments, extremes, counts,
            *self.layout, depth,
            **self.kinds, STATS=True, ROOM=space, UNROLL=unroll, LANES=LANES, COLS=COLS, **_OPTIONS,
        )  # fmt: skip
        mend[(triton.cdiv(self.width, 64), blocks)](
            self.bits, self.index, overflow, state.tallies, moments, extremes, counts, *self.layout, depth,
            **self.kinds, LANES=16, COLS=64, **_FEW,
        )  # fmt: skip
        fold[(triton.cdiv(self.width, 32),)](
            moments, extremes, counts, blocks, self.width, state.moments, state.extremes, state.tallies,
            seen + self.n, cursor, DEPTH=32, COLS=32, **_FEW,
        )  # fmt: skip
        k2 = max(2, triton.next_power_of_2(state.k))
        for i, (sign, values, rows, owner) in enumerate(lists):
            # Entries of one sample are found by comparing all with all: there one column is work enough.
            columns = 8 if owner is None else 1
            select[(triton.cdiv(self.width, columns),)](
                self.bits, self.index, self.samples, numbers[i], found[i], values, rows, owner,
                *self.layout, row0, cursor, state.k, SIGN=sign, **self.kinds, K=k2, ROOM=space,
                UNROLL=unroll, LANES=LANES, STEP=max(64, k2), COLS=columns, **_FEW,
            )  # fmt: skip


_OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
_FEW = {"num_warps": 4, "enable_fp_fusion": True}


def _lists(state: NeuronState) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """(sign, values, rows, samples) of the lists kept."""
    yield 1, state.top_values, state.top_rows, state.top_samples
    if state.bottom_values is not None and state.bottom_rows is not None:
        yield -1, state.bottom_values, state.bottom_rows, state.bottom_samples
