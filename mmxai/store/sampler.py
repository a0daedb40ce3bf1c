"""The order in which a loader visits rows. Stateless: (seed, epoch, position) is all there is to save.

An epoch is one global sequence of positions 0..n-1. A step of a run of `world` ranks takes the next
`batch_size * world` positions and deals them to the ranks in order, so the sequence, and a position in
it, mean the same to every number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmxai.store.permute import Permutation
from mmxai.store.table import Matrix


@dataclass(frozen=True)
class Span:
    """One batch of one rank: positions [start, stop) of `epoch`; after it the run stands at `after`."""

    epoch: int
    start: int
    stop: int
    after: int


@dataclass(frozen=True)
class Schedule:
    """How an epoch of `n` positions falls into batches."""

    n: int
    batch_size: int
    rank: int
    world: int
    drop_last: bool

    def steps(self, position: int) -> int:
        """Batches of this rank from `position` to the end of the epoch."""
        full, rest = divmod(self.n - position, self.batch_size * self.world)
        start, stop = self._share(0, rest)
        return full + (not self.drop_last and stop > start)

    def spans(self, epoch: int, position: int) -> Iterator[Span]:
        """This rank's batches from `position` to the end of `epoch`."""
        step = self.batch_size * self.world
        while position + step <= self.n:
            start = position + self.rank * self.batch_size
            position += step
            yield Span(epoch, start, start + self.batch_size, position)
        start, stop = self._share(position, self.n)
        if not self.drop_last and stop > start:
            yield Span(epoch, start, stop, self.n)

    def _share(self, start: int, stop: int) -> tuple[int, int]:
        """This rank's part of the last, incomplete step: even to one row, and none where rows run out."""
        rest = stop - start
        return start + rest * self.rank // self.world, start + rest * (self.rank + 1) // self.world


class FullOrder:
    """The rows one by one: in their order, or permuted as a whole."""

    def __init__(self, n: int, selected: np.ndarray | None, shuffle: bool, seed: int):
        self.n, self._selected, self._shuffle, self._seed = n, selected, shuffle, seed

    def rows(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Logical rows (int64 `[N]`) at positions of an epoch."""
        if self._shuffle:
            positions = Permutation(self.n, self._seed, epoch)(positions)
        return positions if self._selected is None else self._selected[positions]


@dataclass(frozen=True)
class Block:
    """Rows [begin, stop) of the `part`-th part of a snapshot, of which `chosen` are visited."""

    part: int
    begin: int
    stop: int
    chosen: int


class WindowOrder:
    """Blocks of consecutive rows in permuted order; runs of blocks, the windows, permuted row by row.

    A window is closed when it has `window_rows` rows or more, so it has fewer than `window_rows +
    block_rows`. Rows meet only rows of their window, and the windows change from epoch to epoch.
    """

    def __init__(
        self, table: Matrix, selected: np.ndarray | None, block_rows: int, window_rows: int, seed: int
    ):
        self._starts, self._selected, self._seed = table.starts, selected, seed
        self.n = table.num_rows if selected is None else len(selected)
        self.block_rows, self.window_rows = block_rows, window_rows
        per_part = -(-table.rows // block_rows)
        self._part = np.repeat(np.arange(len(table.rows)), per_part)
        first_block = np.cumsum(per_part) - per_part
        self._begin = (np.arange(len(self._part)) - first_block[self._part]) * block_rows
        self._stop = np.minimum(self._begin + block_rows, table.rows[self._part])
        edges = self._starts[self._part] + self._begin, self._starts[self._part] + self._stop
        if selected is None:
            self._chosen = edges[1] - edges[0]
        else:
            self._chosen = np.searchsorted(selected, edges[1]) - np.searchsorted(selected, edges[0])
        used = np.flatnonzero(self._chosen)
        self._part, self._begin, self._stop, self._chosen = (
            a[used] for a in (self._part, self._begin, self._stop, self._chosen)
        )

    def epoch(self, epoch: int) -> WindowEpoch:
        order = Permutation(len(self._part), self._seed, epoch, 0)(range(len(self._part)))
        return WindowEpoch(self, epoch, order)

    def block(self, number: int) -> Block:
        part, begin, stop, chosen = (a[number] for a in (self._part, self._begin, self._stop, self._chosen))
        return Block(int(part), int(begin), int(stop), int(chosen))

    def chosen_of(self, blocks: np.ndarray) -> np.ndarray:
        return self._chosen[blocks]

    def rows_of(self, block: Block) -> np.ndarray:
        """Logical rows of a block that are visited, ascending."""
        start = int(self._starts[block.part])
        if self._selected is None:
            return np.arange(start + block.begin, start + block.stop)
        low, high = np.searchsorted(self._selected, (start + block.begin, start + block.stop))
        return self._selected[low:high]

    def permutation(self, epoch: int, window: int, n: int) -> np.ndarray:
        """The order of a window's `n` rows: int64 `[n]`."""
        return Permutation(n, self._seed, epoch, 1 + window)(np.arange(n))


class WindowEpoch:
    """The windows of one epoch: `bounds` int64 `[windows + 1]`, the positions at which they begin."""

    def __init__(self, order: WindowOrder, epoch: int, blocks: np.ndarray):
        self.order, self.epoch, self._blocks = order, epoch, blocks
        chosen = order.chosen_of(blocks)
        ends = np.cumsum(chosen)
        cuts = []
        goal = order.window_rows
        while len(ends) and goal < ends[-1]:
            cut = int(np.searchsorted(ends, goal)) + 1
            if cut == len(ends):
                break
            cuts.append(cut)
            goal = int(ends[cut - 1]) + order.window_rows
        self._cuts = [0, *cuts, len(blocks)]
        self.bounds = np.array([0, *(int(ends[c - 1]) for c in self._cuts[1:])], np.int64)

    @cached_property
    def windows(self) -> int:
        return len(self.bounds) - 1

    def blocks(self, window: int) -> list[Block]:
        """The blocks of a window, in the order they are read."""
        return [self.order.block(int(b)) for b in self._blocks[self._cuts[window] : self._cuts[window + 1]]]
