"""`PartWriter`: one attempt at one part, from staged files to its commit record."""

from __future__ import annotations

import hashlib
import json
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save as save_tensors

import mmxai
from mmxai.errors import ArgumentError, DiskFullError, StoreError
from mmxai.kernels.crc32c import crc32c
from mmxai.store import layout, skeleton
from mmxai.store.commit import (
    FileRecord,
    PartRecord,
    publish,
    record_key,
    roll_forward,
    samples_key,
    stats_key,
)
from mmxai.store.files import disk_full, fsync_directory, new_attempt, staged, write_file
from mmxai.store.profiles import encode
from mmxai.store.shard import ShardWriter
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.store.writer import StoreWriter

_INT_VIEW = {1: torch.int8, 2: torch.int16, 4: torch.int32}


class PartWriter:
    """One attempt at one part. A context manager: left without `commit`, the attempt is aborted."""

    def __init__(self, store: StoreWriter, part: int):
        self.part_number, self.attempt = part, new_attempt()
        self._store, self._plan, self._root = store, store.plan, store.path
        self._shards: dict[str, ShardWriter] = {}
        self._small = [samples_key(part), stats_key(part)]
        self._done = False
        # Closing the store aborts open parts, possibly while another thread commits one.
        self._lock = threading.RLock()
        try:
            for path, array in self._plan.arrays.items():
                self._shards[path] = ShardWriter(self._root, array, part, self.attempt)
        except BaseException:
            self.abort()
            raise

    def num_rows(self, space: str) -> int:
        """Rows written so far in `space`: the number of the next row."""
        return self._shards[layout.rows_path(space)].rows

    def write(self, space: str, rows: torch.Tensor, acts: Mapping[str, torch.Tensor]) -> None:
        """Append N rows to every site of `space`.

        `rows`: int32 `[N, 8]`. `acts`: site -> `[N, width]`, contiguous, on the CPU, in the site's
        `row_dtype`; exactly the sites of the space. The tensors may be reused as soon as this returns.
        """
        with self._lock:
            self._refuse_done()
            arrays = self._encoded(space, rows, acts)
            try:
                for path, tensor in arrays.items():
                    self._shards[path].append(tensor.view(_INT_VIEW[tensor.element_size()]).numpy())
            except DiskFullError:
                self.abort()
                raise

    def commit(
        self,
        samples: Sequence[Mapping[str, Any]],
        stats: Mapping[str, np.ndarray] | None = None,
        producer: Mapping[str, Any] | None = None,
    ) -> bool:
        """Publish the part: False when another attempt owns it (this one is then removed).

        `samples`: one JSON object a planned sample, in order, with `sample`, `key` and `hash` (FORMAT.md,
        "Samples"). `stats`: `<site>/<name>` -> array. Afterwards the part is durable.
        """
        with self._lock:
            self._refuse_done()
            try:
                with disk_full(self._root):
                    published = self._publish(self._stage(samples, stats or {}, producer or {}))
            except BaseException:
                self.abort()
                raise
            if published:
                self._end(committed=True)
            else:
                self.abort()
            return published

    def abort(self) -> None:
        """Give the attempt up and remove its files (unless it is committed: then it stays, whole)."""
        with self._lock:
            if self._done:
                return
            for shard in self._shards.values():
                shard.close()
            record = self._published()
            if record is not None and record.attempt == self.attempt:
                roll_forward(self._root, record)
            else:
                for shard in self._shards.values():
                    shard.path.unlink(missing_ok=True)
                for key in self._small:
                    staged(self._root / key, self.attempt).unlink(missing_ok=True)
            self._end(committed=record is not None or self._store.is_committed(self.part_number))

    def _refuse_done(self) -> None:
        if self._done:
            raise StoreError(f"part {self.part_number}: is already committed or aborted")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _end(self, committed: bool) -> None:
        self._done = True
        self._store._ended(self.part_number, committed)

    def _publish(self, record: PartRecord) -> bool:
        if self._plan.samples is None:
            self._store._grow(self.part_number + 1)
        # A folded part has no record to collide with; folding cannot happen while the store is open.
        if self._store.is_committed(self.part_number):
            return False
        if not publish(self._root, record, durable=self._store.durable):
            return False
        roll_forward(self._root, record)
        return True

    def _published(self) -> PartRecord | None:
        try:
            return PartRecord.load(self._root / record_key(self.part_number))
        except FileNotFoundError:
            return None

    def _encoded(
        self, space: str, rows: torch.Tensor, acts: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The rows of each array, encoded, by path; or ArgumentError."""
        expected = {s.name: s for s in self._plan.sites_of(space)}
        if set(acts) != set(expected) or not expected:
            raise ArgumentError(
                f"write: got sites {sorted(acts)}, expected those of {space!r}: {sorted(expected)}"
            )
        count = rows.shape[0]
        wanted = {"rows": (rows, torch.int32, len(ROW_COLUMNS))}
        for name, tensor in acts.items():
            wanted[name] = (tensor, getattr(torch, expected[name].row_dtype), expected[name].width)
        for name, (tensor, dtype, width) in wanted.items():
            shape, device = tuple(tensor.shape), tensor.device.type
            right = tensor.dtype == dtype and shape == (count, width) and device == "cpu"
            if not right or not tensor.is_contiguous():
                raise ArgumentError(
                    f"write to {name}: got {tensor.dtype} {shape} on {device}, "
                    f"expected contiguous {dtype} ({count}, {width}) on cpu"
                )
        room = self._plan.capacity(space) - self.num_rows(space)
        if count > room:
            raise ArgumentError(
                f"part {self.part_number}: got {count} more rows in {space!r}, room for {room}; "
                "the plan's rows_per_sample is too small"
            )
        out = {layout.rows_path(space): rows}
        for name, tensor in acts.items():
            out |= encode(expected[name], tensor)
        return out

    def _stage(
        self,
        samples: Sequence[Mapping[str, Any]],
        stats: Mapping[str, np.ndarray],
        producer: Mapping[str, Any],
    ) -> PartRecord:
        """Complete every staged file and make it durable; the record to publish."""
        first = self._check_samples(samples)
        durable = self._store.durable
        rows = {space: self.num_rows(space) for space in self._plan.spaces}
        lines = b"".join(
            json.dumps(s, separators=(",", ":"), allow_nan=False).encode() + b"\n" for s in samples
        )
        tensors = save_tensors({name: np.ascontiguousarray(value) for name, value in stats.items()})
        files = []
        for key, data in zip(self._small, (lines, tensors), strict=True):
            write_file(staged(self._root / key, self.attempt), data, durable=durable)
            files.append(FileRecord(key, len(data), crc32c(data)))
        files = [shard.finish(durable=durable) for shard in self._shards.values()] + files
        if durable:
            for directory in skeleton.part_directories(self._plan):
                fsync_directory(self._root / directory)
        hashes = "\n".join(s["hash"] for s in samples)
        about = {"mmxai": mmxai.__version__, "host": platform.node(), "time": round(time.time(), 3)}
        return PartRecord(
            part=self.part_number,
            attempt=self.attempt,
            plan=self._plan.hash,
            first=first,
            samples=len(samples),
            digest=hashlib.blake2b(hashes.encode(), digest_size=16).hexdigest(),
            rows=rows,
            files=tuple(files),
            producer={**about, **producer},
        )

    def _check_samples(self, samples: Sequence[Mapping[str, Any]]) -> int:
        """The plan position of the first sample; ArgumentError where they are not the part's."""
        for s in samples:
            if not (
                isinstance(s.get("sample"), int)
                and isinstance(s.get("key"), str)
                and isinstance(s.get("hash"), str)
            ):
                raise ArgumentError(
                    f"samples of part {self.part_number}: got {dict(s)!r}, expected at least "
                    "{'sample': int, 'key': str, 'hash': str}"
                )
        found = [s["sample"] for s in samples]
        if self._plan.samples is not None:
            first = self._plan.first_of(self.part_number)
            expected = self._plan.samples_of(self.part_number).tolist()
        else:
            first = found[0] if found else 0
            expected = list(range(first, first + min(len(found), self._plan.samples_per_part))) or [0]
        if found != expected:
            raise ArgumentError(
                f"samples of part {self.part_number}: got {len(found)} with data set indices {found[:8]}..., "
                f"expected {len(expected)}: {expected[:8]}..."
            )
        return first
