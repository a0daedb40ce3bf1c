"""What the GPU backends share: how a call is cut into passes over x, and what a pass needs beside the state.

A pass reads its rows once. Values that beat a column's k-th are few once many rows were seen: among as many
rows as those seen before, about k a column. So a pass is at most as long as all before it, notes the rows of
those values in a buffer, and a second kernel takes them into the lists. Of a new state everything is noted,
so its first pass is no longer than the buffer has room. What does not fit is found again by going through the
column once more, on the device: nothing waits for the host, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from mmxai.kernels._args import FLOATS
from mmxai.kernels.capture.state import NeuronState

DEPTH = 512
"""Most rows of a tile, whose figures are sums in float32."""

MOST_ROWS = 1 << 30
MOST_TILES = 65_535
"""Of a launch: the y extent of a grid."""

INT8, NOTHING = 3, 4
"""What is written, beside the places of `FLOATS`."""


def target(out: torch.Tensor | None) -> int:
    if out is None:
        return NOTHING
    return INT8 if out.dtype == torch.int8 else FLOATS.index(out.dtype)


def can_overflow(x: torch.Tensor, out: torch.Tensor | None) -> bool:
    return out is not None and out.dtype not in (torch.int8, torch.float32, x.dtype)


def supports(
    x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor | None, state: NeuronState | None
) -> str | None:
    rows = x.shape[0] * x.shape[1]
    return None if rows < MOST_ROWS else f"{rows} rows at once, it counts to 2^30"


def room(k: int) -> int:
    """How much a pass can note of a column."""
    return max(64, 4 << (k - 1).bit_length())


def passes(count: int, seen: int, first: int) -> Iterator[tuple[int, int]]:
    """Runs of `count` rows, each no longer than all before it (and `seen`); the first may be `first`; none
    longer than a launch can take."""
    start = 0
    while start < count:
        stop = min(count, start + min(max(first, seen + start), DEPTH * MOST_TILES))
        yield start, stop
        start = stop


def depth(n: int, multiple: int) -> int:
    """Rows of a tile: tiles of one size, at most DEPTH, a multiple of `multiple`."""
    tiles = -(-n // DEPTH)
    return -(-n // (tiles * multiple)) * multiple


def waiting(enqueue: Callable[..., None]) -> Callable[..., int]:
    """A backend's `capture`, which returns the overflow count, of its `enqueue`."""

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

    return capture


class Workspace:
    """What the kernels of a pass of n rows leave for one another.

    `moments` float64, `extremes` float32, `counts` int32 `[tiles, 2, D]`; `numbers` int32 `[lists, D]`,
    zeros; `found` int32 `[lists, D, room]`.
    """

    def __init__(self, state: NeuronState, n: int, depth: int):
        device, width = state.top_values.device, state.width
        shape = (-(-n // depth), 2, width)
        self.moments = torch.empty(shape, dtype=torch.float64, device=device)
        self.extremes = torch.empty(shape, dtype=torch.float32, device=device)
        self.counts = torch.empty(shape, dtype=torch.int32, device=device)
        lists = 1 + state.bottom
        self.numbers = torch.zeros((lists, width), dtype=torch.int32, device=device)
        self.found = torch.empty((lists, width, room(state.k)), dtype=torch.int32, device=device)


def lists(state: NeuronState) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """(sign, values, rows, samples) of the lists kept: 1 for the largest, -1 for the smallest."""
    yield 1, state.top_values, state.top_rows, state.top_samples
    if state.bottom_values is not None and state.bottom_rows is not None:
        yield -1, state.bottom_values, state.bottom_rows, state.bottom_samples
