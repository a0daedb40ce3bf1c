"""Which parts this worker makes, and their samples, encoded, in the order of the plan."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from mmxai.data import Sample, Skipped, Source, Stream, load_samples
from mmxai.errors import DataError, UnreadableSampleError
from mmxai.store import read_commits

PROBED = 32
"""Samples looked at to learn how many rows a sample has."""

if TYPE_CHECKING:
    from mmxai.data import SampleLoader
    from mmxai.harvesting.config import HarvestConfig
    from mmxai.models.inputs import Encoded
    from mmxai.store import Snapshot, StoreWriter

_Item = Sample | UnreadableSampleError
_Places = deque[tuple[int, int, bool]]  # part, data set index, whether it ends the part


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
        self._store = store
        self._places: _Places = deque()  # filled by the loader's look-ahead
        self._parts: _StreamedParts | None = None
        indices: Iterator[int] | None = None
        samples: Source | Stream
        if isinstance(source, Peeked):
            samples = self._parts = _StreamedParts(store, source, self._places, config.share())
        else:
            check_same_data(store, source)
            samples, indices = source, self._planned(*config.share())
        self.loader: SampleLoader[Encoded] = load_samples(
            samples,
            indices,
            encode=encode,
            workers=config.workers,
            prefetch=prefetch,
            on_error=config.on_error,
        )

    def __iter__(self) -> Iterator[tuple[int, Encoded | Skipped, bool]]:
        for _, item in self.loader:
            part, index, last = self._places.popleft()
            yield part, item.at(index), last
        if self._parts is not None:
            self._store.finish(self._parts.seen)

    def close(self) -> None:
        self.loader.close()

    def _planned(self, rank: int, world: int) -> Iterator[int]:
        for part in self._store.todo(rank, world):
            indices = self._store.plan.samples_of(part).tolist()
            for i, index in enumerate(indices):
                self._places.append((part, index, i == len(indices) - 1))
                yield index


class _StreamedParts(Stream):
    """The samples of a stream that this worker makes, one read ahead to know which is a part's last.

    An iterator class, not a generator: that one would end at its first unreadable sample.
    """

    def __init__(self, store: StoreWriter, source: Peeked, places: _Places, share: tuple[int, int]):
        self._store, self._identity, self._places = store, source.identity, places
        self._rank, self._world = share
        self._items = iter(source)
        self._ahead = next(self._items, None)
        self._snapshot: Snapshot = read_commits(store.path, store.plan)
        self._mine = False
        self._digests: list[str] | None = None
        self.seen = 0

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def __iter__(self) -> Iterator[Sample]:
        return self

    def __next__(self) -> Sample:
        size = self._store.plan.samples_per_part
        while (item := self._ahead) is not None:
            index, self._ahead = self.seen, next(self._items, None)
            self.seen += 1
            part, place = divmod(index, size)
            if place == 0:
                self._begin(part)
            last = place == size - 1 or self._ahead is None
            if self._digests is not None:
                self._digests.append(item.digest if isinstance(item, Sample) else "")
                if last:
                    self._check(part, self._digests)
            elif self._mine:
                self._places.append((part, index, last))
                return readable(item)
        raise StopIteration

    def _begin(self, part: int) -> None:
        parts = self._store.parts
        if parts is not None and part >= parts:
            raise DataError(
                f"{self._store.path}: is finished with {parts} parts and the stream goes on; give the same "
                f"data, or another store"
            )
        committed = self._store.is_committed(part)
        self._digests = [] if committed else None
        self._mine = not committed and part % self._world == self._rank and self._store.claim(part)

    def _check(self, part: int, digests: list[str]) -> None:
        if part not in self._snapshot:
            self._snapshot = read_commits(self._store.path, self._store.plan)
        record = self._snapshot.record(part)
        digest = hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest()
        if digest != record.digest or len(digests) != record.samples:
            raise DataError(
                f"{self._store.path}: part {part} was made from other samples: the stream now yields "
                f"{len(digests)} samples with digest {digest}, the store has {record.samples} with "
                f"{record.digest}; give the same data in the same order, or another store"
            )


class Peeked(Stream):
    """A stream whose first samples have been looked at; it can be read once.

    Its items are samples, and errors in place of samples that cannot be read: those keep their turn.
    """

    def __init__(self, stream: Stream):
        self._identity = stream.identity
        self._rest = _guarded(iter(stream))
        self.head: list[_Item] = list(islice(self._rest, PROBED))
        if not self.head:
            raise DataError("data: got an iterable that yields nothing, expected at least one sample")

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def __iter__(self) -> Iterator[Any]:
        return chain(self.head, self._rest)


def _guarded(samples: Iterator[Any]) -> Iterator[_Item]:
    """Errors become items. Of a generator they end the data, so there they are raised."""
    while True:
        try:
            yield next(samples)
        except StopIteration:
            return
        except UnreadableSampleError as error:
            if isinstance(samples, GeneratorType):
                raise
            yield error


def read(source: Source, index: int) -> _Item:
    """A sample, or the error in its place."""
    try:
        return source[index]
    except UnreadableSampleError as error:
        return error


def readable(item: _Item) -> Sample:
    """The sample; raises the error that stands in its place."""
    if isinstance(item, UnreadableSampleError):
        raise item
    return item


def first_of(source: Source | Peeked) -> Sample:
    """The first sample that can be read, without consuming it; if none can, its error is raised."""
    items: Iterable[_Item] = source.head if isinstance(source, Peeked) else ()
    if isinstance(source, Source):
        items = (read(source, i) for i in range(min(PROBED, len(source))))
    looked = []
    for item in items:
        if isinstance(item, Sample):
            return item
        looked.append(item)
    raise looked[0]


def check_same_data(store: StoreWriter, source: Source) -> None:
    """Compare the first samples of a few committed parts with the data: not every identity tells."""
    snapshot = read_commits(store.path, store.plan)
    for place in {0, len(snapshot) // 2, len(snapshot) - 1} if len(snapshot) else ():
        part = int(snapshot.parts[place])
        record = json.loads(snapshot.samples_text(part).split(b"\n", 1)[0])
        sample = read(source, record["sample"])
        now = sample.digest if isinstance(sample, Sample) else ""
        if record["hash"] and now != record["hash"]:
            raise DataError(
                f"{store.path}: sample {record['sample']} ({record['key']}) is not what it was: got content "
                f"hash {now or 'of an unreadable sample'}, expected {record['hash']}; give the same data, or "
                f"another store"
            )
