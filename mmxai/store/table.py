"""A store's arrays as matrices: dense logical rows over the parts, checked as they are read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from mmxai.errors import ArgumentError, CorruptPartError
from mmxai.kernels.crc32c import crc32c_chunks
from mmxai.kernels.gather import STORED, EncodedTable, PartTable, gather
from mmxai.store import layout
from mmxai.store.maps import MapCache, map_file
from mmxai.store.snapshot import Snapshot
from mmxai.store.spec import ArraySpec, SiteSpec

Verify = Literal["first-touch", "always", "never"]

GROUP_PARTS = 4096  # parts mapped at once; a table of fewer parts is gathered from in one call

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "int32": torch.int32,
    "uint16": torch.uint16,
    "int8": torch.int8,
}


@dataclass
class _Group:
    """Maps of up to GROUP_PARTS parts. `broken`: index in the group -> why its file cannot be read."""

    table: PartTable
    files: list[np.ndarray]
    broken: dict[int, CorruptPartError]


class Matrix(ABC):
    """Rows `[num_rows, width]` over the parts of a snapshot, read as `dtype`, `row_bytes` a row in all.

    `parts` int64 `[P]`: part numbers; `rows` int64 `[P]`: their valid rows; `starts` int64 `[P + 1]`: the
    logical row at which each begins. `pieces`: the arrays that hold it, all in chunks of `chunk` rows.
    """

    name: str
    dtype: torch.dtype
    width: int
    chunk: int
    row_bytes: int
    parts: np.ndarray
    rows: np.ndarray
    starts: np.ndarray

    @property
    @abstractmethod
    def pieces(self) -> Sequence[Table]: ...

    @abstractmethod
    def assemble(self, pieces: Sequence[PartTable]) -> PartTable | EncodedTable:
        """What to gather from, of a table that holds the same rows of each of `pieces`."""

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the valid rows."""
        return self.num_rows * self.row_bytes

    def gather(self, rows: np.ndarray, out: torch.Tensor) -> None:
        """Logical `rows` (int64 `[N]`) to `out` `[N, width]` in the table's dtype, or 16-bit as float32."""
        if len(rows) == 0:
            return
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.num_rows:
            wrong = low if low < 0 else high
            raise ArgumentError(f"{self.name}: got row {wrong}, expected 0 <= row < {self.num_rows}")
        if len(self.parts) <= GROUP_PARTS:
            self._gather(0, rows, out)
            return
        edges = np.append(self.starts[:-1:GROUP_PARTS], self.starts[-1])
        group_of = np.searchsorted(edges, rows, side="right") - 1
        for g in np.unique(group_of):
            where = np.flatnonzero(group_of == g)
            if len(where) == len(rows):
                self._gather(g, rows - edges[g], out)
                return
            some = torch.empty((len(where), self.width), dtype=out.dtype)
            self._gather(g, rows[where] - edges[g], some)
            out[torch.from_numpy(where)] = some

    def _gather(self, g: int, rows: np.ndarray, out: torch.Tensor) -> None:
        gather(self.assemble([piece.held(g, rows) for piece in self.pieces]), rows, out)


class Table(Matrix):
    """The matrix of one array. Maps are opened at first use.

    `done` bool `[chunks]` tells which inner chunks have been found good.
    """

    def __init__(self, spec: ArraySpec, snapshot: Snapshot, verify: Verify, maps: MapCache):
        self.spec, self.parts, self.rows = spec, snapshot.parts, snapshot.rows[spec.space]
        self.name, self.dtype = spec.path, DTYPES[spec.dtype]
        self.width, self.chunk, self.row_bytes = spec.width, spec.chunk, spec.row_bytes
        self.starts = np.concatenate([[0], np.cumsum(self.rows, dtype=np.int64)])
        self._chunk_bytes = spec.chunk * spec.row_bytes
        self._chunk_starts = np.concatenate([[0], np.cumsum(-(-self.rows // spec.chunk), dtype=np.int64)])
        self.done = np.zeros(int(self._chunk_starts[-1]), bool)
        self._left = len(self.done) if verify != "never" else 0
        self._snapshot, self._verify, self._maps = snapshot, verify, maps
        self._token = object()

    @property
    def pieces(self) -> Sequence[Table]:
        return [self]

    def assemble(self, pieces: Sequence[PartTable]) -> PartTable | EncodedTable:
        return pieces[0]

    def key(self, index: int) -> str:
        """Relative path of the file of the `index`-th part."""
        return layout.shard_key(self.spec.path, int(self.parts[index]))

    def inherit(self, older: Table) -> None:
        """Take over what `older`, the table of an earlier snapshot, has verified: parts never change."""
        at = {int(p): i for i, p in enumerate(older.parts)}
        for i, part in enumerate(self.parts):
            j = at.get(int(part))
            if j is not None:
                self.done[self._chunk_starts[i] : self._chunk_starts[i + 1]] = older.done[
                    older._chunk_starts[j] : older._chunk_starts[j + 1]
                ]
        self._count()

    def held(self, g: int, rows: np.ndarray) -> PartTable:
        """The maps of group `g`; the chunks that hold its `rows` (numbered in the group) are good."""
        group = self._group(g)
        if self._left or group.broken:
            self._check(g, group, rows)
        return group.table

    def _check(self, g: int, group: _Group, rows: np.ndarray) -> None:
        """Verify the chunks that `rows` (numbered in the group) touch; CorruptPartError if one is bad."""
        first = g * GROUP_PARTS
        index = np.searchsorted(group.table.starts, rows, side="right") - 1
        for i in group.broken:
            if (index == i).any():
                found = group.broken[i]
                raise CorruptPartError(str(found), part=found.part, key=found.key)
        if not self._left:
            return
        chunk = self._chunk_starts[first + index] + (rows - group.table.starts[index]) // self.spec.chunk
        todo = np.unique(chunk[~self.done[chunk]] if self._verify == "first-touch" else chunk)
        if len(todo) == 0:
            return
        owner = np.searchsorted(self._chunk_starts, todo, side="right") - 1
        # Runs of neighbouring chunks of one part are checked in one call, which then uses all threads.
        cuts = np.flatnonzero((np.diff(todo) != 1) | (np.diff(owner) != 0)) + 1
        for run in np.split(todo, cuts):
            i = int(np.searchsorted(self._chunk_starts, run[0], side="right")) - 1
            begin = int(run[0] - self._chunk_starts[i])
            data = group.files[i - first][begin * self._chunk_bytes : (begin + len(run)) * self._chunk_bytes]
            self._verify_chunks(i, begin, data)
        self._count()

    def _count(self) -> None:
        if self._verify == "first-touch":
            self._left = len(self.done) - int(np.count_nonzero(self.done))

    def _verify_chunks(self, index: int, begin: int, data: np.ndarray) -> None:
        """Compare `data`, the whole chunks of a part from its chunk `begin` on, with the commit record."""
        found = crc32c_chunks(data, self._chunk_bytes)
        wanted = self._snapshot.chunks(int(self.parts[index]), self.spec.path)[begin : begin + len(found)]
        if len(wanted) != len(found):
            raise self._corrupt(index, "its commit record has no checksum for some of its chunks")
        bad = np.flatnonzero(found != wanted)
        good = self._chunk_starts[index] + begin + np.flatnonzero(found == wanted)
        self.done[good] = True
        if len(bad):
            c = begin + int(bad[0])
            rows = f"rows {c * self.spec.chunk} to {(c + 1) * self.spec.chunk - 1} of the part"
            raise self._corrupt(
                index,
                f"chunk {c} ({rows}) has CRC-32C {found[bad[0]]:08x}, committed was {wanted[bad[0]]:08x}",
            )

    def _corrupt(self, index: int, what: str) -> CorruptPartError:
        part, key = int(self.parts[index]), self.key(index)
        return CorruptPartError(
            f"part {part}, {key}: {what}; other parts are readable, `mmxai verify` lists all damage",
            part=part, key=key,
        )  # fmt: skip

    def _group(self, g: int) -> _Group:
        first = g * GROUP_PARTS
        last = min(first + GROUP_PARTS, len(self.parts))
        return self._maps.get((self._token, g), last - first, lambda: self._open_group(first, last))

    def _open_group(self, first: int, last: int) -> _Group:
        files, views, broken = [], [], {}
        stored: Any = STORED[self.dtype]
        for i in range(first, last):
            rows = int(self.rows[i])
            try:
                data = self._map(i)
            except CorruptPartError as error:
                # Its rows keep their numbers, so that the other parts stay readable; reading them raises.
                broken[i - first] = error
                data = np.zeros(-(-rows // self.spec.chunk) * self._chunk_bytes, np.uint8)
            files.append(data)
            views.append(data[: rows * self.spec.row_bytes].view(stored).reshape(rows, self.width))
        return _Group(PartTable(views, self.dtype, self.width), files, broken)

    def _map(self, index: int) -> np.ndarray:
        fd = self.open(index)
        try:
            return map_file(fd, -(-int(self.rows[index]) // self.spec.chunk) * self._chunk_bytes)
        finally:
            os.close(fd)

    def open(self, index: int) -> int:
        """A read-only descriptor of the `index`-th part's file; CorruptPartError if missing or misfit."""
        part, expected = int(self.parts[index]), self.spec.file_bytes(int(self.rows[index]))
        for _ in range(2):  # a file can get its final name between being found and being opened
            try:
                fd = os.open(self._snapshot.shard(part, self.spec.path), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            size = os.fstat(fd).st_size
            if size != expected:
                os.close(fd)
                raise self._corrupt(index, f"file has {size} bytes, committed were {expected}")
            return fd
        raise self._corrupt(index, "file is missing though the part is committed")

    def read_into(self, index: int, begin: int, stop: int, buffer: np.ndarray) -> None:
        """Read rows [begin, stop) of the `index`-th part to the uint8 `buffer`, past the page maps.

        `begin` lies at a chunk's start, and `stop` at one or at the part's last row. `buffer` has room for
        whole chunks, and receives whole chunks.
        """
        c0, c1 = begin // self.spec.chunk, -(-stop // self.spec.chunk)
        need = (c1 - c0) * self._chunk_bytes
        view = memoryview(buffer[:need].data)
        fd = self.open(index)
        try:
            at = 0
            while at < need:
                got = os.preadv(fd, [view[at:]], c0 * self._chunk_bytes + at)
                if got == 0:
                    raise self._corrupt(index, f"file ends at byte {c0 * self._chunk_bytes + at}")
                at += got
        finally:
            os.close(fd)
        span = slice(int(self._chunk_starts[index]) + c0, int(self._chunk_starts[index]) + c1)
        if self._verify == "always" or (self._verify == "first-touch" and not self.done[span].all()):
            self._verify_chunks(index, c0, buffer[:need])
            self._count()


class EncodedSite(Matrix):
    """The matrix of a site that is stored as int8 or topk, over the tables of its arrays."""

    def __init__(self, spec: SiteSpec, pieces: Sequence[Table]):
        first = pieces[0]
        self.name, self.spec, self._pieces = spec.name, spec, pieces
        self.dtype, self.width = DTYPES[spec.row_dtype], spec.width
        self.chunk, self.row_bytes = first.chunk, spec.row_bytes
        self.parts, self.rows, self.starts = first.parts, first.rows, first.starts

    @property
    def pieces(self) -> Sequence[Table]:
        return self._pieces

    def assemble(self, pieces: Sequence[PartTable]) -> EncodedTable:
        if self.spec.dtype == "topk":
            values, indices = pieces
            return EncodedTable(self.width, kept=values, places=indices)
        kept = pieces[2] if self.spec.outliers else None
        columns = np.array(self.spec.outliers, np.int32) if self.spec.outliers else None
        return EncodedTable(self.width, quantised=pieces[0], scales=pieces[1], kept=kept, places=columns)
