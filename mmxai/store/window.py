"""Windows of a store in memory: blocks read in sequence past the page maps, the next while one is in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mmxai.kernels.gather import STORED, EncodedTable, PartTable
from mmxai.store.sampler import Block, WindowEpoch, WindowOrder
from mmxai.store.table import Matrix, Table

_READERS = 4  # reads in flight: enough to keep a disk busy


@dataclass
class Window:
    """Positions [start, stop) of an epoch, n rows: a table a site holds them in file order.

    `rows` int64 `[n]`: their logical numbers, in file order too; `order` int64 `[n]`: position `start + i`
    is row `order[i]` of the tables.
    """

    epoch: int
    start: int
    stop: int
    tables: list[PartTable | EncodedTable]
    rows: np.ndarray
    order: np.ndarray
    reads: list[Future[None]] = field(default_factory=list)


class WindowReader:
    """Reads windows one ahead, into two sets of buffers that take turns.

    It holds two windows of all its tables and a block a reading thread, whatever the size of the store.
    """

    def __init__(self, tables: list[Matrix], order: WindowOrder):
        self._tables, self._order = tables, order
        most = min(order.window_rows + order.block_rows, order.n)
        self._pieces = [piece for table in tables for piece in table.pieces]
        self._buffers = [[np.empty(most * p.row_bytes, np.uint8) for p in self._pieces] for _ in range(2)]
        self._scratch = threading.local()
        self._pool = ThreadPoolExecutor(_READERS, "mmxai-window")

    def windows(self, epoch: int, position: int, epochs: int | None) -> Iterator[Window]:
        """The windows from `position` of `epoch` to the end of the last of `epochs` (None: without end)."""
        ahead: Window | None = None
        for turn, (plan, number) in enumerate(self._sequence(epoch, position, epochs)):
            begun = self._begin(plan, number, self._buffers[turn % 2])
            if ahead is not None:
                yield _finished(ahead)
            ahead = begun
        if ahead is not None:
            yield _finished(ahead)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _sequence(self, epoch: int, position: int, epochs: int | None) -> Iterator[tuple[WindowEpoch, int]]:
        while epochs is None or epoch < epochs:
            plan = self._order.epoch(epoch)
            first = int(np.searchsorted(plan.bounds, position, side="right")) - 1
            for number in range(first, plan.windows):
                yield plan, number
            epoch, position = epoch + 1, 0

    def _begin(self, plan: WindowEpoch, number: int, buffers: list[np.ndarray]) -> Window:
        start, stop = int(plan.bounds[number]), int(plan.bounds[number + 1])
        n = stop - start
        held = map(partial(_held, n), self._pieces, buffers)
        tables = [table.assemble(list(islice(held, len(table.pieces)))) for table in self._tables]
        window = Window(plan.epoch, start, stop, tables, np.empty(n, np.int64), np.empty(n, np.int64))
        window.reads.append(self._pool.submit(self._shuffle, window, number))
        at = 0
        for block in plan.blocks(number):
            window.rows[at : at + block.chosen] = self._order.rows_of(block)
            for piece, buffer in zip(self._pieces, buffers, strict=True):
                window.reads.append(self._pool.submit(self._read, piece, block, window, at, buffer))
            at += block.chosen
        return window

    def _shuffle(self, window: Window, number: int) -> None:
        window.order[:] = self._order.permutation(window.epoch, number, len(window.rows))

    def _read(self, table: Table, block: Block, window: Window, at: int, buffer: np.ndarray) -> None:
        """The chosen rows of a block to row `at` of a window's buffer."""
        rows, row_bytes = block.stop - block.begin, table.row_bytes
        into = buffer[at * row_bytes : (at + block.chosen) * row_bytes]
        if block.chosen == rows and rows % table.chunk == 0:
            table.read_into(block.part, block.begin, block.stop, into)
            return
        whole = -(-rows // table.chunk) * table.chunk * row_bytes
        scratch = self._scratch.__dict__.get("buffer")
        if scratch is None or len(scratch) < whole:
            scratch = self._scratch.buffer = np.empty(whole, np.uint8)
        table.read_into(block.part, block.begin, block.stop, scratch)
        local = window.rows[at : at + block.chosen] - (int(table.starts[block.part]) + block.begin)
        # Rows as opaque items: NumPy then copies each with one memcpy.
        item: np.dtype = np.dtype(f"V{row_bytes}")
        into.view(item)[:] = scratch[: rows * row_bytes].view(item)[local]


def _held(n: int, piece: Table, buffer: np.ndarray) -> PartTable:
    """The first `n` rows of a buffer of `piece`."""
    stored: Any = STORED[piece.dtype]
    return PartTable([buffer[: n * piece.row_bytes].view(stored).reshape(n, piece.width)], piece.dtype)


def _finished(window: Window) -> Window:
    for read in window.reads:
        read.result()
    return window
