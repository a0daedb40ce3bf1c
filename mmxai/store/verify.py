"""Checking a whole store: every checksum, size and document. Damage is reported, never raised."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmxai.errors import StoreError, StoreNotFoundError
from mmxai.kernels.crc32c import crc32c_chunks
from mmxai.store import layout, sealed, segments, skeleton
from mmxai.store.commit import END, PLAN, PartRecord, locate, record_key, samples_key, stats_key
from mmxai.store.plan import Plan
from mmxai.store.snapshot import Snapshot, read_commits
from mmxai.store.spec import ArraySpec

_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class Problem:
    """Something wrong with the file `key`; `part` is None where it belongs to no single part."""

    part: int | None
    key: str
    what: str

    def __str__(self) -> str:
        where = self.key if self.part is None else f"part {self.part}, {self.key}"
        return f"{where}: {self.what}"


@dataclass
class VerifyReport:
    """What `verify` found. `missing`: planned parts that are not committed (a harvest may go on).

    `orphans`: files that no commit names, left by an attempt that died (or still alive); harmless.
    """

    path: Path
    deep: bool
    parts: int = 0
    parts_total: int | None = None
    missing: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    bytes_read: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def damaged_parts(self) -> list[int]:
        """Parts with a problem, ascending."""
        return sorted({p.part for p in self.problems if p.part is not None})

    def __str__(self) -> str:
        total = "" if self.parts_total is None else f" of {self.parts_total}"
        how = f"every checksum, {self.bytes_read / 1e6:,.0f} MB read" if self.deep else "names and sizes only"
        lines = [f"{self.path}: {self.parts}{total} parts checked ({how})"]
        if self.missing:
            lines.append(f"not committed yet: {len(self.missing)} parts, the first {self.missing[0]}")
        if self.orphans:
            lines.append(
                f"left by unfinished attempts, removed at the next resume: {len(self.orphans)} files"
            )
        lines += [f"DAMAGED {p}" for p in self.problems]
        lines.append("whole" if self.ok else f"{len(self.problems)} problems; the other parts still read")
        return "\n".join(lines)


def verify(
    path: str | Path, deep: bool = True, *, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Check the store at `path`; with `deep=False` names and sizes only, without reading the arrays.

    `progress(done, total)` is called after every part. Raises only StoreNotFoundError.
    """
    root = Path(path)
    report = VerifyReport(root, deep)
    if not (root / PLAN).exists() and not (root / layout.STATE).is_dir():
        raise StoreNotFoundError(f"{root}: is not an mmxai store (no {PLAN})")
    try:
        plan = Plan.load(root / PLAN)
    except (StoreError, OSError) as error:
        report.problems.append(Problem(None, PLAN, str(error)))
        return report
    snapshot = _snapshot(root, plan, report)
    if snapshot is None:
        return report
    report.problems += [Problem(part, record_key(part), what) for part, what in snapshot.damaged.items()]
    report.parts, report.parts_total = len(snapshot), snapshot.total_parts
    _documents(root, snapshot, report)
    for done, part in enumerate(snapshot.parts.tolist(), 1):
        for key, what in _part(snapshot, part, report):
            report.problems.append(Problem(part, key, what))
        if progress is not None:
            progress(done, len(snapshot))
    known = set(snapshot.parts.tolist()) | set(snapshot.damaged)
    report.missing = [p for p in range(report.parts_total or 0) if p not in known]
    report.orphans = sorted(_orphans(root, snapshot, known))
    return report


def _snapshot(root: Path, plan: Plan, report: VerifyReport) -> Snapshot | None:
    """The snapshot, if the files it hangs on are readable; what is wrong with them goes to the report."""
    if (root / END).exists():
        try:
            sealed.load((root / END).read_bytes(), root / END)
        except (StoreError, OSError) as error:
            report.problems.append(Problem(None, END, str(error)))
    try:
        for number in segments.numbers(root)[-1:]:
            path = segments.segment_path(root, number)
            key = str(path.relative_to(root))
            report.problems += [Problem(None, key, what) for what in segments.Segment(path, plan).check()]
            report.bytes_read += path.stat().st_size
    except (StoreError, OSError) as error:
        report.problems.append(Problem(None, layout.STATE, str(error)))
    if report.problems:
        return None
    try:
        return read_commits(root, plan)
    except (StoreError, OSError) as error:
        report.problems.append(Problem(None, layout.STATE, str(error)))
        return None


def _documents(root: Path, snapshot: Snapshot, report: VerifyReport) -> None:
    plan = snapshot.plan
    needed = int(snapshot.parts[-1]) + 1 if len(snapshot) else 0
    for directory, expected in skeleton.documents(plan, plan.parts or 0).items():
        key = os.path.normpath(os.path.join(directory, skeleton.DOCUMENT))
        path = root / key
        try:
            found = json.loads(path.read_bytes())
            if plan.samples is None and directory in plan.arrays:
                parts = skeleton.document_parts(path, plan.arrays[directory].capacity)
                expected = plan.arrays[directory].document(max(parts, needed))
        except (OSError, ValueError, StoreError) as error:
            report.problems.append(Problem(None, key, f"cannot be read: {error}"))
            continue
        if found != expected:
            report.problems.append(Problem(None, key, "differs from what the plan says"))


def _part(snapshot: Snapshot, part: int, report: VerifyReport) -> Iterator[tuple[str, str]]:
    """(key, what) for each damage of a part."""
    plan = snapshot.plan
    record = snapshot.record(part)
    named = {f.key for f in record.files}
    expected = {layout.shard_key(path, part) for path in plan.arrays}
    if part in snapshot.loose:
        expected |= {samples_key(part), stats_key(part)}
    if named != expected:
        yield record_key(part), f"names {sorted(named ^ expected)[:4]} too many or too few"
        return
    for path, array in plan.arrays.items():
        key = layout.shard_key(path, part)
        try:
            what = _shard(snapshot, record, array, key, report)
        except OSError as error:
            what = f"cannot be read: {error}"
        if what:
            yield key, what
    try:
        what = _samples(snapshot, record)
    except (StoreError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = str(error)
    if what:
        yield samples_key(part), what
    if part in snapshot.loose:
        try:
            snapshot.part_stats(part)
        except (StoreError, OSError) as error:
            yield stats_key(part), str(error)


def _shard(
    snapshot: Snapshot, record: PartRecord, array: ArraySpec, key: str, report: VerifyReport
) -> str | None:
    """What is wrong with a shard, or None."""
    rows = record.rows[array.space]
    file = next(f for f in record.files if f.key == key)
    index, size = array.index(rows), array.file_bytes(rows)
    present = layout.chunks_present(rows, array.chunk)
    if file.chunks is None or len(file.chunks) != present or file.size != size:
        return f"its record does not fit {rows} rows"
    path = locate(snapshot.root, key, record.attempt)
    if not path.exists():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, expected {size}"
    if not report.deep:
        return None
    chunk_bytes = array.chunk * array.row_bytes
    step = max(1, _READ_BYTES // chunk_bytes)
    with open(path, "rb", buffering=0) as handle:
        for first in range(0, present, step):
            count = min(step, present - first)
            data = np.fromfile(handle, np.uint8, count * chunk_bytes)
            report.bytes_read += data.size
            bad = np.flatnonzero(crc32c_chunks(data, chunk_bytes) != file.chunks[first : first + count])
            if bad.size:
                chunk = first + int(bad[0])
                end = min(rows, (chunk + 1) * array.chunk)
                return f"rows {chunk * array.chunk} to {end - 1} of the part differ from their checksum"
        tail = handle.read()
    if tail != index or file.crc32c != int.from_bytes(index[-4:], "little"):
        return "its chunk index is damaged"
    return None


def _samples(snapshot: Snapshot, record: PartRecord) -> str | None:
    plan = snapshot.plan
    lines = snapshot.samples_text(record.part).splitlines()
    samples = [json.loads(line) for line in lines]
    digest = hashlib.blake2b("\n".join(s["hash"] for s in samples).encode(), digest_size=16).hexdigest()
    if len(samples) != record.samples or digest != record.digest:
        return f"holds {len(samples)} samples, the record names {record.samples}, or their hashes differ"
    if plan.samples is None:
        expected = list(range(record.first, record.first + record.samples))
    else:
        expected = plan.samples_of(record.part).tolist()
    if [s["sample"] for s in samples] != expected:
        return "its samples are not those of the plan"
    return None


def _orphans(root: Path, snapshot: Snapshot, known: set[int]) -> Iterator[str]:
    for path, part, attempt in skeleton.staged_files(root, snapshot.plan):
        if part is None or (part not in snapshot.damaged and not _owns(snapshot, part, attempt)):
            yield str(path.relative_to(root))
    for directory in skeleton.part_directories(snapshot.plan):
        for name in os.listdir(root / directory):
            part = skeleton.part_of(name)
            if part is not None and part not in known:
                yield f"{directory}/{name}"


def _owns(snapshot: Snapshot, part: int, attempt: str) -> bool:
    return part in snapshot and snapshot.attempt(part) == attempt
