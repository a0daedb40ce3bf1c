"""Reading, decoding and encoding ahead of the model, in threads (Pillow and tokenizers release the GIL)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import GeneratorType
from typing import Any, Generic, Literal, Protocol, TypeVar

from mmxai.data.sample import Sample
from mmxai.data.source import Source, Stream
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError

_END = object()


class Indexed(Protocol):
    """What `encode` returns: the loader tells it its number in the data set."""

    index: int | None


E = TypeVar("E", bound=Indexed)


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why. `digest` is "" where not even its bytes could be."""

    index: int
    key: str
    reason: str
    digest: str = ""

    def at(self, index: int) -> Skipped:
        """The same under another number."""
        return replace(self, index=index)

    def record(self) -> dict[str, Any]:
        """The line of the store's sample table (FORMAT.md, Samples)."""
        return {"sample": self.index, "key": self.key, "hash": self.digest, "skipped": self.reason}


class SampleLoader(Generic[E]):
    """Ordered iterator of `(index, encoded or Skipped)`. Made by `load_samples`.

    `seconds`: time spent reading, decoding and encoding (the sum over threads); `bytes`: image files and
    texts read; `samples` and `skipped`: how many. All so far, of samples already handed out. Leaving a
    `with` block, `close()` or the end of the data stops the workers.
    """

    def __init__(
        self,
        source: Source | Stream,
        indices: Iterable[int] | None,
        encode: Callable[[Sample], E],
        workers: int,
        prefetch: int,
        skip: bool,
    ):
        self.seconds, self.bytes, self.samples, self.skipped = 0.0, 0, 0, 0
        self._encode, self._skip = encode, skip
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mmxai-decode")
        self._waiting: deque[tuple[int, Future[Any]]] = deque()
        self._closed = threading.Event()
        self._puller: ThreadPoolExecutor | None = None
        self._jobs: Iterator[tuple[int, Callable[[], tuple[Any, float]]]]
        if isinstance(source, Stream):
            # An iterator knows no threads: one pulls, in order, and the pool encodes what it pulled.
            self._puller = ThreadPoolExecutor(1, thread_name_prefix="mmxai-pull")
            self._stream = iter(source)
            self._jobs = self._stream_jobs(self._puller)
        else:
            wanted = range(len(source)) if indices is None else indices
            self._jobs = ((int(i), partial(_timed, partial(source.__getitem__, int(i)))) for i in wanted)

    def _stream_jobs(
        self, puller: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Callable[[], tuple[Any, float]]]]:
        index = 0
        while True:
            yield index, puller.submit(self._pull).result
            index += 1

    def _pull(self) -> tuple[Any, float]:
        try:
            return _timed(lambda: _END if self._closed.is_set() else next(self._stream, _END))
        except UnreadableSampleError as error:
            if self._skip and isinstance(self._stream, GeneratorType):
                raise DataError(
                    f"{error} (a generator ends at its first error, so it cannot be skipped)"
                ) from error
            raise

    def _work(self, index: int, read: Callable[[], tuple[Any, float]]) -> tuple[Any, int, float]:
        digest = ""
        try:
            sample, reading = read()
            if sample is _END:
                return _END, 0, 0.0
            digest = sample.digest
            encoded, encoding = _timed(lambda: self._encode(sample))
        except UnreadableSampleError as error:
            if not self._skip:
                raise
            return Skipped(index, error.key, str(error), digest), 0, 0.0
        encoded.index = index
        return encoded, sample.nbytes, reading + encoding

    def __iter__(self) -> SampleLoader[E]:
        return self

    def __next__(self) -> tuple[int, E | Skipped]:
        if self._closed.is_set():
            raise StopIteration
        try:
            while len(self._waiting) < self._prefetch and (job := next(self._jobs, None)) is not None:
                self._waiting.append((job[0], self._pool.submit(self._work, *job)))
            if not self._waiting:
                self.close()
                raise StopIteration
            index, future = self._waiting.popleft()
            result, size, seconds = future.result()
        except BaseException:
            self.close()
            raise
        if result is _END:
            self.close()
            raise StopIteration
        self.seconds += seconds
        self.bytes += size
        self.samples += 1
        self.skipped += isinstance(result, Skipped)
        return index, result

    def close(self) -> None:
        """Stop the workers and wait for those that are busy."""
        self._closed.set()
        self._waiting.clear()
        for pool in (self._pool, self._puller):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> SampleLoader[E]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def load_samples(
    source: Source | Stream,
    indices: Iterable[int] | None = None,
    *,
    encode: Callable[[Sample], E],
    workers: int = 2,
    prefetch: int = 64,
    on_error: Literal["stop", "skip"] = "stop",
) -> SampleLoader[E]:
    """Read, decode and encode samples ahead of the consumer, in the order of `indices`.

    `indices`: sample numbers (None: all, the only choice for a stream). `workers`: threads. `prefetch`: most
    samples in flight, which bounds memory. `on_error`: what to do about an `UnreadableSampleError`: "stop"
    raises it at its sample's turn, "skip" yields `Skipped`; every other exception is raised at its turn.
    """
    if workers < 1 or prefetch < 1:
        raise ArgumentError(f"got workers={workers}, prefetch={prefetch}, expected at least 1 of each")
    if on_error not in ("stop", "skip"):
        raise ArgumentError(f'on_error: got {on_error!r}, expected "stop" or "skip"')
    if isinstance(source, Stream) and indices is not None:
        raise ArgumentError(
            "indices: got some for a stream, expected None; a stream is read from its beginning"
        )
    return SampleLoader(source, indices, encode, workers, prefetch, on_error == "skip")
