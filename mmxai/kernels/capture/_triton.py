"""`capture` in Triton: one pass over x, then small kernels that take what it found into the state."""

from __future__ import annotations

import torch
import triton

from mmxai.kernels._args import FLOATS
from mmxai.kernels._tl import as_bits
from mmxai.kernels.capture._passes import (
    INT8,
    Workspace,
    depth,
    lists,
    passes,
    room,
    supports,
    target,
    waiting,
)  # fmt: skip
from mmxai.kernels.capture._triton_merge import fold, select
from mmxai.kernels.capture._triton_tiles import capture_tiles, mend, row_scales
from mmxai.kernels.capture.state import NeuronState

__all__ = ["capture", "enqueue", "supports"]

UNROLL, LANES, COLS = 4, 4, 256
"""What a program holds at once: at most UNROLL x LANES rows of COLS columns, 32 values a thread."""

COLUMNS = 4
"""Columns whose lists a warp brings up to date."""

SMALL = {"num_warps": 4, "enable_fp_fusion": True}


def unroll(kind: int, bottom: bool) -> int:
    """Of UNROLL, what registers bear: exact division (int8) takes some, and so does a second list."""
    return 1 if kind == INT8 else UNROLL // 2 if bottom else UNROLL


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
    count = x.shape[0] * x.shape[1] if index is None else len(index)
    seen = 0 if state is None else state.count
    kind = target(out)
    stored = out if out is None or kind == INT8 else as_bits(out)
    held = unroll(kind, state is not None and state.bottom)
    bits, width = as_bits(x), x.shape[2]
    kinds = {
        "SOURCE": FLOATS.index(x.dtype),
        "FLAT": x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1),
    }
    alone = state is None or cursor is not None  # a graph's passes are the same whatever was seen by then
    runs = passes(count, count, 1) if state is None or alone else passes(count, seen, held * room(state.k))
    for start, stop in runs:
        n = stop - start
        layout = (n, width, start if index is None else 0, x.shape[1], x.stride(0), x.stride(1), x.stride(2))
        rows = None if index is None else index[start:stop]
        place = None if stored is None else stored[start:stop]
        steps = None if scales is None else scales[start:stop]
        if steps is not None:
            across = min(4096, max(16, triton.next_power_of_2(width)))
            row_scales[(n,)](bits, rows, steps, *layout, **kinds, COLS=across, **SMALL)
        deep = depth(n, UNROLL * LANES)
        grid = (triton.cdiv(width, COLS), triton.cdiv(n, deep))
        tile = {"TARGET": kind, "UNROLL": held, "LANES": LANES, "COLS": COLS}
        if state is None:
            capture_tiles[grid](
                bits, rows, place, steps, overflow, *[None] * 9, *layout, deep,
                **kinds, **tile, STATS=False, ROOM=1, **SMALL,
            )  # fmt: skip
            continue
        work = Workspace(state, n, deep)
        searched: list[torch.Tensor | None] = [None] * 6
        for i, (_, values, _, _) in enumerate(lists(state)):
            searched[3 * i : 3 * i + 3] = values[-1], work.numbers[i], work.found[i]
        figures = (work.moments, work.extremes, work.counts)
        capture_tiles[grid](
            bits, rows, place, steps, overflow, *searched, *figures, *layout, deep,
            **kinds, **tile, STATS=True, ROOM=room(state.k), **SMALL,
        )  # fmt: skip
        mend[(triton.cdiv(width, 64), grid[1])](
            bits, rows, overflow, state.tallies, *figures, *layout, deep,
            **kinds, TARGET=kind, LANES=16, COLS=64, **SMALL,
        )  # fmt: skip
        fold[(triton.cdiv(width, 32),)](
            *figures, grid[1], width, state.moments, state.extremes, state.tallies, seen + stop, cursor,
            DEPTH=32, COLS=32, **SMALL,
        )  # fmt: skip
        whose = None if samples is None else samples[start:stop]
        _select(state, work, bits, rows, whose, layout, row0 + start, cursor, {**kinds, "TARGET": kind}, held)


capture = waiting(enqueue)


def _select(
    state: NeuronState,
    work: Workspace,
    bits: torch.Tensor,
    index: torch.Tensor | None,
    samples: torch.Tensor | None,
    layout: tuple[int, ...],
    row0: int,
    cursor: torch.Tensor | None,
    kinds: dict[str, int],
    held: int,
) -> None:
    k2 = max(2, triton.next_power_of_2(state.k))
    for i, (sign, values, rows, owner) in enumerate(lists(state)):
        select[(triton.cdiv(state.width, COLUMNS),)](
            bits, index, samples, work.numbers[i], work.found[i], values, rows, owner,
            *layout, row0, cursor, state.k, SIGN=sign, **kinds, K=k2, ROOM=room(state.k),
            UNROLL=held, LANES=LANES, STEP=max(64, k2), COLS=COLUMNS, **{**SMALL, "num_warps": 1},
        )  # fmt: skip
