"""The writer thread: checksums and disk beside the forward pass, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmxai.capture.engine import Buffers, Packed
from mmxai.harvesting.report import HarvestReport
from mmxai.stats import state_arrays

if TYPE_CHECKING:
    from mmxai.kernels.capture import NeuronState
    from mmxai.store import StoreWriter

QUEUE_BYTES = 256 << 20
"""Packed activations that may wait for the disk; one batch is always let in, however large."""


_States = Mapping[str, "NeuronState"]
_Item = tuple[int, list[Any], _States | None]  # part, its packed rows; or its records, and states: its end


class WriterThread:
    """Takes packed rows and finished parts in order and commits them. Context manager.

    An exception in the thread is raised in the harvesting thread at its next call; leaving the context
    on an exception commits the parts that are complete and abandons the one that is not.
    """

    def __init__(
        self,
        store: StoreWriter,
        buffers: Buffers,
        report: HarvestReport,
        *,
        producer: dict[str, Any],
        limit: int = QUEUE_BYTES,
    ):
        self._store, self._buffers, self._report = store, buffers, report
        self._producer, self._limit = producer, limit
        self._queue: deque[tuple[_Item, int]] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mmxai-writer", daemon=True)

    def write(self, part: int, packed: Sequence[Packed]) -> None:
        """Queue the rows of one batch of `part`; waits while the queue is full."""
        self._put((part, list(packed), None), sum(p.nbytes for p in packed))

    def finish(self, part: int, records: list[dict[str, Any]], states: _States) -> None:
        """Queue the commit of `part`, with the statistics of its sites."""
        self._put((part, records, states), 0)

    def _put(self, item: _Item, nbytes: int) -> None:
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._queued or self._queued + nbytes <= self._limit
            )
            if self._error is not None:
                raise self._error
            self._queue.append((item, nbytes))
            self._queued += nbytes
            self._changed.notify_all()
        self._report.clock.wait_disk += time.perf_counter() - start

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            # After an error the rest of an unfinished part is dropped; finished parts are still committed.
            while kind is not None and self._queue and self._queue[-1][0][2] is None:
                self._queued -= self._queue.pop()[1]
            self._changed.notify_all()
        start = time.perf_counter()
        self._thread.join()
        self._report.clock.wait_disk += time.perf_counter() - start
        if kind is None and self._error is not None:
            raise self._error

    def _next(self) -> tuple[_Item, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _done(self, nbytes: int) -> None:
        with self._changed:
            self._queued -= nbytes
            self._changed.notify_all()

    def _run(self) -> None:
        writing: _Part | None = None
        try:
            while (queued := self._next()) is not None:
                (part, content, states), nbytes = queued
                if writing is None:
                    writing = _Part(self._store, part, self._report)
                if states is not None:
                    writing.commit(content, states, self._producer)
                    self._buffers.give_back_states(states)
                    writing = None
                else:
                    for packed in content:
                        writing.write(packed)
                        self._buffers.give_back(packed)
                    transfers = {packed.transfer for packed in content if packed.transfer is not None}
                    self._report.clock.copy += sum(transfer.seconds for transfer in transfers)
                self._done(nbytes)
        except BaseException as error:  # handed to the harvesting thread, which raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            if writing is not None:
                writing.abort()


class _Part:
    """One part being written."""

    def __init__(self, store: StoreWriter, part: int, report: HarvestReport):
        self._writer, self._plan, self._number, self._report = store.part(part), store.plan, part, report
        self._rows: dict[str, int] = {}
        self._staged = 0

    def write(self, packed: Packed) -> None:
        packed.wait()
        if not len(packed.rows):
            return
        start = time.perf_counter()
        self._writer.write(packed.space, packed.rows, packed.acts)
        self._report.clock.write += time.perf_counter() - start
        self._rows[packed.space] = self._rows.get(packed.space, 0) + len(packed.rows)
        self._staged += sum(x.nbytes for x in packed.acts.values())

    def commit(self, records: list[dict[str, Any]], states: _States, producer: dict[str, Any]) -> None:
        start = time.perf_counter()
        stats = {
            f"{site}/{name}": array
            for site, state in states.items()
            if state.count  # a site without a row in the part has no statistics there
            for name, array in state_arrays(state, self._number).items()
        }
        report = self._report
        if self._writer.commit(records, stats, producer):
            report.written += 1
            report.staged += self._staged
            for space, rows in self._rows.items():
                report.rows[space] = report.rows.get(space, 0) + rows
                report.nbytes += rows * sum(site.row_bytes for site in self._plan.sites_of(space))
        report.clock.write += time.perf_counter() - start

    def abort(self) -> None:
        self._writer.abort()
