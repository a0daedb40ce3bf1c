"""Writing a store: `StoreWriter` opens or resumes it and deals out parts, `PartWriter` writes one part."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_tensors

import mmxai
from mmxai.errors import (
    ArgumentError,
    CorruptPartError,
    DiskFullError,
    PlanMismatchError,
    StoreError,
    StoreExistsError,
)
from mmxai.kernels.crc32c import crc32c
from mmxai.store import layout, sealed, skeleton
from mmxai.store.commit import (
    END,
    PLAN,
    FileRecord,
    PartRecord,
    publish,
    record_key,
    roll_forward,
    samples_key,
    stats_key,
)
from mmxai.store.files import (
    create_if_absent,
    disk_full,
    fsync_directory,
    new_attempt,
    probe_link,
    staged,
    write_file,
)
from mmxai.store.locks import Claims, StoreLock
from mmxai.store.plan import Plan
from mmxai.store.shard import ShardWriter
from mmxai.store.snapshot import read_commits
from mmxai.types import ROW_COLUMNS

_INT_VIEW = {2: torch.int16, 4: torch.int32}


class StoreWriter:
    """A store open for writing; any number of processes may have it open at once. A context manager."""

    def __init__(self, root: Path, plan: Plan, lock: StoreLock, *, durable: bool):
        self.path, self.plan, self.durable = root, plan, durable
        self._lock, self._claims = lock, Claims(root)
        self._open: dict[int, PartWriter] = {}
        snapshot = read_commits(root, plan)
        self._committed = {int(p) for p in snapshot.parts}
        self._end = snapshot.end

    @classmethod
    def open(cls, path: str | Path, plan: Plan, *, resume: bool = True, durable: bool = True) -> StoreWriter:
        """Create the store at `path`, or resume it when its plan has the same hash.

        `durable=False` leaves out every fsync: a crash of the machine (not of the process) may then lose
        parts or leave them damaged. Raises PlanMismatchError, StoreExistsError, StoreInUseError,
        CorruptPartError (a commit record is damaged), DiskFullError, and StoreError where link(2) fails.
        """
        root = Path(path)
        _refuse_foreign(root, resume)
        with disk_full(root):
            return cls._open_or_create(root, plan, durable=durable)

    @classmethod
    def _open_or_create(cls, root: Path, plan: Plan, *, durable: bool) -> StoreWriter:
        plan = replace(plan, notes={"mmxai": mmxai.__version__, **plan.notes})
        (root / layout.STATE).mkdir(parents=True, exist_ok=True)
        lock = StoreLock(root)
        try:
            exclusive = lock.exclusive_or_shared()
            if not (root / PLAN).exists():
                skeleton.directories(root)  # before the plan: who sees a plan may list its records
                probe_link(root / layout.STATE)
                create_if_absent(root / PLAN, plan.dump(), durable=durable)
            stored = Plan.load(root / PLAN)
            if stored.hash != plan.hash:
                differences = "\n  ".join(stored.differences(plan))
                raise PlanMismatchError(
                    f"{root}: made by another plan; give another path, or the same options:\n  {differences}"
                )
            skeleton.build(root, stored, durable=durable)
            snapshot = read_commits(root, stored)
            for part, what in snapshot.damaged.items():
                key = record_key(part)
                raise CorruptPartError(
                    f"{what}; delete {root / key} to make part {part} anew", part=part, key=key
                )
            if exclusive:
                skeleton.clean(root, snapshot)
                lock.to_shared()
            else:
                snapshot.roll_forward()
            _allow_open_files(4 * len(stored.arrays) + 256)
            return cls(root, stored, lock, durable=durable)
        except BaseException:
            lock.close()
            raise

    def committed(self) -> set[int]:
        """Parts committed by anyone, as of now."""
        self._committed |= {int(p) for p in read_commits(self.path, self.plan).parts}
        return set(self._committed)

    def is_committed(self, part: int) -> bool:
        if part not in self._committed and (self.path / record_key(part)).exists():
            self._committed.add(part)
        return part in self._committed

    @property
    def parts(self) -> int | None:
        """Parts of the plan; None while its length is unknown."""
        if self.plan.samples is None and self._end is not None:
            return -(-self._end // self.plan.samples_per_part)
        return self.plan.parts

    def todo(self, rank: int = 0, world: int = 1) -> Iterator[int]:
        """Parts to make, each claimed until its PartWriter ends: the own share in order, then the others'.

        Skips parts that are committed or claimed by a live process. In a plan of unknown length it goes on
        without end until `finish` has been called.
        """
        if not 0 <= rank < world:
            raise ArgumentError(f"todo: got rank {rank} of world {world}, expected 0 <= rank < world")
        for share in range(world):
            part = (rank + share) % world
            while self.parts is None or part < self.parts:
                if self.claim(part):
                    yield part
                part += world

    def claim(self, part: int) -> bool:
        """Claim a part until its PartWriter ends: False when it is committed or a live process has it."""
        if self.is_committed(part) or not self._claims.take(part):
            return False
        if self.is_committed(part):  # by the one whose claim has just ended
            self._claims.drop(part)
            return False
        return True

    def part(self, part: int) -> PartWriter:
        """Start an attempt at `part`."""
        self.plan.first_of(part)
        if part in self._open:
            raise StoreError(f"{self.path}: part {part} is already being written by this writer")
        self._open[part] = writer = PartWriter(self, part)
        return writer

    def claim_append(self) -> bool:
        """Become the only one that appends at the end (until close): False when another process is."""
        return self._claims.take_append()

    def finish(self, n_samples: int) -> None:
        """Record that a plan of unknown length has `n_samples` samples."""
        if self.plan.samples is not None:
            raise StoreError(
                f"{self.path}: finish() is for plans of unknown length; this has {self.plan.samples}"
            )
        document = sealed.dump({"format": layout.FORMAT, "plan": self.plan.hash, "samples": n_samples})
        if not create_if_absent(self.path / END, document, durable=self.durable):
            end = read_commits(self.path, self.plan).end
            if end != n_samples:
                raise StoreError(
                    f"{self.path}: ends at {end} samples, this run saw {n_samples}; the data changed"
                )
        self._end = n_samples

    def close(self) -> None:
        """Abort unfinished parts and let go of the store."""
        for writer in list(self._open.values()):
            writer.abort()
        self._claims.close()
        self._lock.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _grow(self, parts: int) -> None:
        with self._claims.growing():
            skeleton.grow(self.path, self.plan, parts, durable=self.durable)

    def _ended(self, part: int, committed: bool) -> None:
        if committed:
            self._committed.add(part)
        self._open.pop(part, None)
        self._claims.drop(part)


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

        `rows`: int32 `[N, 8]`. `acts`: site -> `[N, width]`, contiguous, on the CPU, in the site's dtype;
        exactly the sites of the space. The tensors may be reused as soon as this returns.
        """
        with self._lock:
            self._refuse_done()
            arrays = self._check(space, rows, acts)
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

    def _check(
        self, space: str, rows: torch.Tensor, acts: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The tensors by array path, or ArgumentError."""
        expected = {s.name: s for s in self._plan.sites_of(space)}
        if set(acts) != set(expected) or not expected:
            raise ArgumentError(
                f"write: got sites {sorted(acts)}, expected those of {space!r}: {sorted(expected)}"
            )
        count = rows.shape[0]
        wanted = {layout.rows_path(space): (rows, torch.int32, len(ROW_COLUMNS))}
        for name, tensor in acts.items():
            dtype = getattr(torch, expected[name].dtype)
            wanted[layout.array_path(name)] = (tensor, dtype, expected[name].width)
        for path, (tensor, dtype, width) in wanted.items():
            shape, device = tuple(tensor.shape), tensor.device.type
            right = tensor.dtype == dtype and shape == (count, width) and device == "cpu"
            if not right or not tensor.is_contiguous():
                raise ArgumentError(
                    f"write to {path}: got {tensor.dtype} {shape} on {device}, "
                    f"expected contiguous {dtype} ({count}, {width}) on cpu"
                )
        room = self._plan.capacity(space) - self.num_rows(space)
        if count > room:
            raise ArgumentError(
                f"part {self.part_number}: got {count} more rows in {space!r}, room for {room}; "
                "the plan's rows_per_sample is too small"
            )
        return {path: tensor for path, (tensor, _, _) in wanted.items()}

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


def _refuse_foreign(root: Path, resume: bool) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise StoreExistsError(f"{root}: is a file, expected nothing or a store; give another path")
    if (root / PLAN).exists():
        if not resume:
            raise StoreExistsError(f"{root}: is already a store; resume it, or give another path")
    elif {p.name for p in root.iterdir()} - {layout.STATE}:
        raise StoreExistsError(
            f"{root}: is a directory of something else, expected a store; give another path"
        )


def _allow_open_files(wanted: int) -> None:
    """Raise this process's soft limit of open files: an attempt holds one file open an array."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
