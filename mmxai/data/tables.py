"""Text files, CSV, TSV, JSON lines and JSON arrays: indexed by one scan, then read a record at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mmxai.data.columns import Columns
from mmxai.data.sample import Sample
from mmxai.data.source import Source, checked
from mmxai.errors import DataError, UnreadableSampleError

_BLOCK = 1 << 23
_BOM = b"\xef\xbb\xbf"


class _Records(Source):
    """A file cut into records at byte offsets: record i is `[starts[i], stops[i])`."""

    kind = ""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        state = blake2b(digest_size=16)
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                state.update(block)
        self._fingerprint = state.hexdigest()
        self._starts, self._stops = self._index()
        if not len(self):
            raise DataError(f"{self._path}: got a file without samples, expected at least one")

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        return _lines(self._path)

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self._path.name,
            "count": len(self),
            "fingerprint": self._fingerprint,
        }

    def __len__(self) -> int:
        return len(self._starts)

    def _key(self, index: int) -> str:
        return f"{self._path.name}:{index + 1}"

    def _read(self, index: int) -> str:
        start, stop = int(self._starts[index]), int(self._stops[index])
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        try:
            return data.removeprefix(_BOM if start == 0 else b"").decode("utf-8")
        except UnicodeDecodeError as error:
            key = self._key(index)
            raise UnreadableSampleError(f"{key}: got {error}, expected UTF-8", key=key) from error


class TextFile(_Records):
    """A sample a line, an empty line too, so that sample i is always line i + 1. Key: `name:line`."""

    kind = "text"

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        return Sample(self._key(index), text=self._read(index).rstrip("\r\n"))


class JsonLines(_Records):
    """A JSON object a line; lines of white space hold no record. Image paths are relative to the file."""

    kind = "jsonl"

    def __init__(self, path: str | Path, image_column: str | None = None, text_column: str | None = None):
        super().__init__(path)
        names = list(self._row(0))
        self._columns = Columns.choose(names, image_column, text_column, where=str(self._path))

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        starts, stops = _lines(self._path)
        with self._path.open("rb") as file:
            full = np.fromiter((bool(line.strip()) for line in file), dtype=bool, count=len(starts))
        return starts[full], stops[full]

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "columns": self._columns.identity}

    def _row(self, index: int) -> dict[str, Any]:
        key = self._key(index)
        try:
            row = json.loads(self._read(index))
        except json.JSONDecodeError as error:
            raise UnreadableSampleError(f"{key}: got {error}, expected a JSON object", key=key) from error
        if not isinstance(row, dict):
            raise UnreadableSampleError(
                f"{key}: got a JSON {type(row).__name__}, expected an object of named values", key=key
            )
        return row

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        return self._columns.sample(self._row(index), self._key(index), self._path.parent)


class Table(_Records):
    """CSV (quotes as in RFC 4180) or TSV (no quoting: a field holds neither tab nor line break), with a
    header.

    Values stay strings. Empty lines hold no record. Image paths are relative to the file.
    """

    kind = "table"

    def __init__(self, path: str | Path, image_column: str | None = None, text_column: str | None = None):
        self._tsv = str(path).lower().endswith(".tsv")
        super().__init__(path)
        where = str(self._path)
        repeated = sorted({name for name in self._names if self._names.count(name) > 1})
        if repeated:
            raise DataError(f"{where}: got columns {repeated} more than once, expected distinct names")
        self._columns = Columns.choose(self._names, image_column, text_column, where=where)

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)  # a setting of the process; its default refuses texts over 128 KiB
        if self._tsv:
            return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return csv.reader(lines, strict=True)

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        position = 0

        def lines(file: io.BufferedReader) -> Iterator[str]:
            nonlocal position
            for line in file:
                start, position = position, position + len(line)
                yield line.removeprefix(_BOM if start == 0 else b"").decode("utf-8", "surrogateescape")

        spans = []
        with self._path.open("rb") as file:
            reader = self._reader(lines(file))
            try:
                self._names = next(reader, [])
                start = position
                for row in reader:
                    if row:
                        spans.append((start, position))
                    start = position
            except csv.Error as error:
                raise DataError(f"{self._path}: got {error} near byte {position}, expected CSV") from error
        table = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "columns": self._columns.identity}

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        key = self._key(index)
        values = next(self._reader(io.StringIO(self._read(index), newline="")))
        if len(values) != len(self._names):
            raise UnreadableSampleError(
                f"{key}: got {len(values)} fields, expected {len(self._names)} ({', '.join(self._names)})",
                key=key,
            )
        return self._columns.sample(dict(zip(self._names, values, strict=True)), key, self._path.parent)


class JsonArray(Source):
    """A JSON file that holds an array of objects or of strings (texts), in memory. Key: `name:place`."""

    def __init__(self, path: str | Path, image_column: str | None = None, text_column: str | None = None):
        self._path = Path(path)
        data = self._path.read_bytes()
        try:
            rows = json.loads(data)
        except ValueError as error:
            raise DataError(f"{path}: got {error}, expected a JSON array") from error
        if not isinstance(rows, list) or not rows:
            names = f" with {list(rows)[:8]}" if isinstance(rows, dict) else ""
            raise DataError(f"{path}: got a JSON {type(rows).__name__}{names}, expected an array of samples")
        kinds = sorted({type(row).__name__ for row in rows})
        if kinds not in (["dict"], ["str"]):
            raise DataError(
                f"{path}: got an array of {', '.join(kinds)}, expected all objects or all strings"
            )
        self._rows = rows
        self._fingerprint = blake2b(data, digest_size=16).hexdigest()
        self._columns = Columns(None, None)
        if kinds == ["dict"]:
            self._columns = Columns.choose(list(rows[0]), image_column, text_column, where=str(path))

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "json",
            "name": self._path.name,
            "count": len(self),
            "fingerprint": self._fingerprint,
            "columns": self._columns.identity,
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        row, key = self._rows[index], f"{self._path.name}:{index + 1}"
        if isinstance(row, str):
            return Sample(key, text=row)
        return self._columns.sample(row, key, self._path.parent)


def _lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop of every line, int64; a line break at the very end begins no further line."""
    ends, size = [], 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            ends.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10) + size + 1)
            size += len(block)
    stops = np.concatenate(ends) if ends else np.zeros(0, dtype=np.int64)
    if size and (not len(stops) or stops[-1] != size):
        stops = np.append(stops, size)
    return np.concatenate([[0], stops[:-1]]).astype(np.int64)[: len(stops)], stops.astype(np.int64)
