"""Running an iterator ahead of its consumer, in a thread, a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """The items of `source`, `ahead` of them prepared in advance (0: none, and no thread).

    An exception in the source is raised by `next` after the items before it. `close` ends the thread and
    the source; a forgotten prefetcher must be closed by its owner.
    """

    def __init__(self, source: Iterator[T], ahead: int):
        self._source = source
        self._done = False
        self._thread: threading.Thread | None = None
        if ahead > 0:
            self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=_run, args=(source, self._queue, self._stop), name="mmxai-prefetch", daemon=True
            )
            self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        if self._thread is None:
            return next(self._source)
        kind, value = self._queue.get()
        if kind == "item":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread, if there is one, and the source."""
        if self._done:
            return
        self._done = True
        if self._thread is None:
            _close(self._source)
            return
        self._stop.set()
        while self._thread.is_alive():
            while not self._queue.empty():  # the thread may be waiting for room
                self._queue.get()
            self._thread.join(0.01)


def _run(source: Iterator[Any], out: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    try:
        for item in source:
            out.put(("item", item))
            if stop.is_set():
                return
        out.put(("end", None))
    except BaseException as error:  # handed to the consumer, who raises it
        out.put(("error", error))
    finally:
        _close(source)


def _close(source: Iterator[Any]) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()
