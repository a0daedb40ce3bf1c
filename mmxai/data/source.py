"""What a data set is to mmxai: a `Source` (has a length, any sample by number) or a `Stream` (only a
beginning).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError


class Source(ABC):
    """Samples by number. Reading must be thread safe; pictures are decoded by whoever looks at them."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON that changes when the data set does (names, sizes, count), and never holds a machine's
        paths.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Raises `UnreadableSampleError` where a sample cannot be read."""

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


class Stream(ABC):
    """Samples in order, of unknown number; iterating again starts from the beginning."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...


class _LimitedSource(Source):
    def __init__(self, source: Source, limit: int):
        self._source, self._limit = source, limit

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "limit": self._limit}

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def __getitem__(self, index: int) -> Sample:
        return self._source[checked(index, len(self))]


class _LimitedStream(Stream):
    def __init__(self, stream: Stream, limit: int):
        self._stream, self._limit = stream, limit

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._stream.identity, "limit": self._limit}

    def __iter__(self) -> Iterator[Sample]:
        return _First(iter(self._stream), self._limit)


class _First(Iterator[Sample]):
    """As `itertools.islice`, which however ends at an exception: an unreadable sample may be skipped."""

    def __init__(self, samples: Iterator[Sample], left: int):
        self._samples, self._left = samples, left

    def __next__(self) -> Sample:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return next(self._samples)


def limited(source: Source | Stream, limit: int | None) -> Source | Stream:
    """The first `limit` samples."""
    if limit is None:
        return source
    if limit < 1:
        raise ArgumentError(f"limit: got {limit}, expected at least 1")
    return _LimitedSource(source, limit) if isinstance(source, Source) else _LimitedStream(source, limit)


def checked(index: int, length: int) -> int:
    """A sample number in range, negative ones counted from the end. IndexError ends old-style iteration."""
    if not -length <= index < length:
        raise IndexError(f"sample {index}: expected 0 to {length - 1}")
    return int(index) % length


def fingerprint(lines: Iterable[str]) -> str:
    """BLAKE2b-128 (hex) of a listing."""
    state = blake2b(digest_size=16)
    for line in lines:
        state.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return state.hexdigest()
