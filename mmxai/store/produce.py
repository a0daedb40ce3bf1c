"""The generators behind a loader: batches of CPU tensors, each with where the run stands after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice

import numpy as np

from mmxai.kernels.gather import gather
from mmxai.store.sampler import FullOrder, Span, WindowOrder
from mmxai.store.table import Matrix
from mmxai.store.transfer import Transfer
from mmxai.store.view import View
from mmxai.store.window import WindowReader
from mmxai.types import Batch, Rows

Standing = tuple[int, int]  # epoch and global position that come next

_STRIDE = 1 << 16  # rows whose permutation is computed in one call: a batch alone would pay mostly overheads


@dataclass(frozen=True)
class Producer:
    """Makes batches of `sites` (with their `tables`) of a view, for spans of an order."""

    view: View
    space: str
    sites: list[str]
    tables: list[Matrix]
    transfer: Transfer

    def full(self, order: FullOrder, spans: Iterator[Span]) -> Iterator[tuple[Standing, Batch]]:
        """Each row gathered from the store's maps."""
        for first in spans:
            more = max(0, _STRIDE // max(1, first.stop - first.start) - 1)
            for epoch, group in groupby(chain([first], islice(spans, more)), lambda s: s.epoch):
                some = list(group)
                rows = order.rows(epoch, np.concatenate([np.arange(s.start, s.stop) for s in some]))
                end = 0
                for span in some:
                    begin, end = end, end + span.stop - span.start
                    chosen = rows[begin:end]
                    held = {}
                    for site, table in zip(self.sites, self.tables, strict=True):
                        held[site] = self.transfer.empty(len(chosen), table)
                        table.gather(chosen, held[site])
                    yield (epoch, span.after), self._batch(held, chosen)

    def windowed(
        self, order: WindowOrder, spans: Iterator[Span], epoch: int, position: int, epochs: int | None
    ) -> Iterator[tuple[Standing, Batch]]:
        """Rows gathered from windows of the store that are read from `position` of `epoch` on."""
        reader = WindowReader(self.tables, order)
        try:
            windows = reader.windows(epoch, position, epochs)
            window = next(windows)
            for span in spans:
                size = span.stop - span.start
                held = {s: self.transfer.empty(size, t) for s, t in zip(self.sites, self.tables, strict=True)}
                chosen = np.empty(size, np.int64)
                at = span.start
                while at < span.stop:
                    while (window.epoch, window.stop) <= (span.epoch, at):
                        window = next(windows)
                    stop = min(span.stop, window.stop)
                    inside = window.order[at - window.start : stop - window.start]
                    into = slice(at - span.start, stop - span.start)
                    chosen[into] = window.rows[inside]
                    for site, table in zip(self.sites, window.tables, strict=True):
                        gather(table, inside, held[site][into])
                    at = stop
                yield (span.epoch, span.after), self._batch(held, chosen)
        finally:
            reader.close()

    def _batch(self, held: dict, chosen: np.ndarray) -> Batch:
        view, space = self.view, self.space

        def rows() -> Rows:
            return view.rows(space, chosen)

        return Batch(held, rows, space=space)
