"""Which parts this worker makes, and their samples, encoded, in the order of the plan."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from mmxai.data import Sample, Skipped, Source, Stream, load_samples
from mmxai.errors import DataError
from mmxai.store import read_commits

PROBED = 32
"""Samples looked at to learn how many rows a sample has."""

if TYPE_CHECKING:
    from mmxai.data import SampleLoader
    from mmxai.harvesting.config import HarvestConfig
    from mmxai.models.inputs import Encoded
    from mmxai.store import StoreWriter


class Feed:
    """Iterates over `(part, item, last)`: `item` is Encoded or Skipped, `last` ends its part.

    Of a source, parts are claimed a little ahead of the model, as the loader prefetches. A stream is read
    whole by every worker; parts that are committed are checked against their digests and passed over.
    """

    def __init__(
        self,
        store: StoreWriter,
        source: Source | Peeked,
        encode: Callable[[Sample], Encoded],
        config: HarvestConfig,
        prefetch: int,
    ):
        self._rank, self._world = config.share()
        self._store = store
        # (part, data set index, whether it ends the part); the loader's look-ahead fills it.
        self._places: deque[tuple[int, int, bool]] = deque()
        self._seen = 0
        streamed = isinstance(source, Peeked)
        self.loader: SampleLoader[Encoded] = load_samples(
            _Wanted(self._streamed(source), source.identity) if streamed else source,
            None if streamed else self._planned(),
            encode=encode,
            workers=config.workers,
            prefetch=prefetch,
            on_error=config.on_error,
        )
        self._finished = not streamed

    def __iter__(self) -> Iterator[tuple[int, Encoded | Skipped, bool]]:
        for _, item in self.loader:
            part, index, last = self._places.popleft()
            yield part, item.at(index), last
        if not self._finished and self._store.plan.samples is None:
            self._store.finish(self._seen)

    def close(self) -> None:
        self.loader.close()

    def _planned(self) -> Iterator[int]:
        for part in self._store.todo(self._rank, self._world):
            indices = self._store.plan.samples_of(part).tolist()
            for i, index in enumerate(indices):
                self._places.append((part, index, i == len(indices) - 1))
                yield index

    def _streamed(self, source: Any) -> Iterator[Sample]:
        size = self._store.plan.samples_per_part
        samples = iter(source)
        part = 0
        while chunk := list(islice(samples, size)):
            first = part * size
            if self._store.is_committed(part):
                self._check(part, chunk)
            elif part % self._world == self._rank:
                for i, sample in enumerate(chunk):
                    self._places.append((part, first + i, i == len(chunk) - 1))
                    yield sample
            self._seen += len(chunk)
            part += 1

    def _check(self, part: int, chunk: list[Sample]) -> None:
        record = read_commits(self._store.path, self._store.plan).record(part)
        digest = sample_digest(s.digest for s in chunk)
        if digest != record.digest or len(chunk) != record.samples:
            raise DataError(
                f"{self._store.path}: part {part} was made from other samples: the stream now yields "
                f"{len(chunk)} samples with digest {digest}, the store has {record.samples} with "
                f"{record.digest}; give the same data in the same order, or another store"
            )


class Peeked(Stream):
    """A stream whose first samples have been looked at; it can be read once."""

    def __init__(self, stream: Stream):
        self.identity_of = stream.identity
        self._rest = iter(stream)
        self.head = list(islice(self._rest, PROBED))
        if not self.head:
            raise DataError("data: got an iterable that yields nothing, expected at least one sample")

    @property
    def identity(self) -> dict[str, Any]:
        return self.identity_of

    def __iter__(self) -> Iterator[Sample]:
        return chain(self.head, self._rest)


def first_of(source: Source | Peeked) -> Sample:
    """The first sample, without consuming it."""
    return source[0] if isinstance(source, Source) else source.head[0]


class _Wanted(Stream):
    """The samples of a stream that are still to be made."""

    def __init__(self, samples: Iterator[Sample], identity: dict[str, Any]):
        self._samples, self._identity = samples, identity

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def __iter__(self) -> Iterator[Sample]:
        return self._samples


def sample_digest(digests: Any) -> str:
    """The digest of a part that its commit record holds (FORMAT.md)."""
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest()
