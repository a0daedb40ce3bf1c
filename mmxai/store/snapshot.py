"""A snapshot: the set of parts committed at one moment, read from records and the newest segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from mmxai.errors import CorruptPartError, StoreError, StoreFormatError, StoreNotFoundError
from mmxai.kernels.crc32c import crc32c
from mmxai.store import layout, sealed, segments
from mmxai.store.commit import (
    COMMITS,
    END,
    PLAN,
    RECORD_NAME,
    PartRecord,
    is_rolled_forward,
    locate,
    record_key,
    roll_forward,
    samples_key,
    stats_key,
)
from mmxai.store.plan import Plan

_RETRIES = 20


class Snapshot:
    """Committed parts, ascending, and everything their records say.

    `parts first samples`: int64 `[n]`, aligned. `rows[space]`: int64 `[n]`, valid rows a part.
    `damaged`: part -> what is wrong with its record; such parts are in none of the arrays.
    `end`: number of samples of a finished plan of unknown length, else None.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        segment: segments.Segment | None,
        loose: dict[int, PartRecord],
        damaged: dict[int, str],
        end: int | None,
    ):
        self.root, self.plan, self.segment, self.loose = root, plan, segment, loose
        self.damaged, self.end = damaged, end
        records = [loose[p] for p in sorted(loose)]

        def column(name: str) -> np.ndarray:
            values = np.array([getattr(r, name) for r in records], np.int64)
            return values if segment is None else np.concatenate([segment.tensor(name), values])

        parts = column("part")
        order = np.argsort(parts, kind="stable")
        self.parts, self.first, self.samples = parts[order], column("first")[order], column("samples")[order]
        self.rows = {}
        for space in plan.spaces:
            rows = np.array([r.rows[space] for r in records], np.int64)
            self.rows[space] = (rows if segment is None else np.concatenate([segment.rows(space), rows]))[
                order
            ]

    def __contains__(self, part: int) -> bool:
        return part in self.loose or (self.segment is not None and part in self.segment)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def total_parts(self) -> int | None:
        """Parts of the finished store; None while its length is unknown."""
        if self.plan.samples is None and self.end is not None:
            return -(-self.end // self.plan.samples_per_part)
        return self.plan.parts

    def attempt(self, part: int) -> str:
        """The attempt that owns a committed part."""
        return self.loose[part].attempt if part in self.loose else self._folded(part).attempt(part)

    def record(self, part: int) -> PartRecord:
        """The whole record of a committed part (a folded one names its shards alone)."""
        return self.loose[part] if part in self.loose else self._folded(part).record(part)

    def shard(self, part: int, array: str) -> Path:
        """Where the shard of `part` of an array (a key of `plan.arrays`) lies now."""
        return locate(self.root, layout.shard_key(array, part), self.attempt(part))

    def chunks(self, part: int, array: str) -> np.ndarray:
        """CRC-32C of every present inner chunk of a shard, uint32."""
        if part not in self.loose:
            return self._folded(part).chunks(part, array)
        key = layout.shard_key(array, part)
        chunks = next((f.chunks for f in self.loose[part].files if f.key == key), None)
        if chunks is None:
            raise CorruptPartError(f"part {part}: its commit record does not name {key}", part=part, key=key)
        return chunks

    def samples_text(self, part: int) -> bytes:
        """The JSON lines of the samples of a part, checked against the record."""
        if part in self.loose:
            data = self._checked(part, samples_key(part))
            if data is not None:
                return data
        return self._folded(part).samples_text(part)

    def part_stats(self, part: int) -> dict[str, np.ndarray]:
        """Statistics `<site>/<name>` of a part that is not folded, checked against the record."""
        data = self._checked(part, stats_key(part))
        if data is None:
            raise StoreError(f"part {part}: was folded by compaction meanwhile; read the snapshot again")
        try:
            return load_tensors(data)
        except SafetensorError as error:
            raise CorruptPartError(f"part {part}: {error}", part=part, key=stats_key(part)) from error

    def stats_states(self) -> Iterator[dict[str, np.ndarray]]:
        """Statistics to merge, in order: those of the segment, then of each part that is not folded."""
        if self.segment is not None:
            yield self.segment.stats()
        for part in sorted(self.loose):
            yield self.part_stats(part)

    def roll_forward(self) -> int:
        """Roll forward what a crash left; how many parts needed it. OSError on a read-only store."""
        late = [r for r in self.loose.values() if not is_rolled_forward(self.root, r)]
        for record in late:
            roll_forward(self.root, record)
        return len(late)

    def _folded(self, part: int) -> segments.Segment:
        if self.segment is None or part not in self.segment:
            # Compaction may have folded it after this snapshot was taken.
            newest = _newest_segment(self.root, self.plan)
            if newest is None or part not in newest:
                raise StoreError(f"{self.root}: part {part} is not committed in this snapshot")
            return newest
        return self.segment

    def _checked(self, part: int, key: str) -> bytes | None:
        """The bytes of a small file of a loose part; None when compaction has folded it meanwhile."""
        record = self.loose[part]
        file = next((f for f in record.files if f.key == key), None)
        try:
            data = locate(self.root, key, record.attempt).read_bytes()
        except FileNotFoundError:
            if not (self.root / record_key(part)).exists():
                return None
            raise CorruptPartError(f"part {part}: {key} is missing", part=part, key=key) from None
        if file is None or len(data) != file.size or crc32c(data) != file.crc32c:
            raise CorruptPartError(f"part {part}: {key} differs from its commit record", part=part, key=key)
        return data


def read_commits(path: str | Path, plan: Plan | None = None) -> Snapshot:
    """The committed parts of the store at `path` now. Takes no lock and writes nothing."""
    root = Path(path)
    if plan is None:
        plan = load_plan(root)
    for _ in range(_RETRIES):
        try:
            return _read(root, plan)
        except FileNotFoundError:
            # Compaction removed a listed record after folding it, or replaced the segment: look again.
            if not (root / PLAN).exists():
                raise
    raise StoreError(f"{root}: its records kept vanishing while being read; is something deleting them?")


def load_plan(root: Path) -> Plan:
    """The plan of the store at `root`; StoreNotFoundError when there is none."""
    try:
        return Plan.load(root / PLAN)
    except (FileNotFoundError, NotADirectoryError):
        what = "is not an mmxai store (no mmxai/plan.json)" if root.exists() else "does not exist"
        raise StoreNotFoundError(f"{root}: {what}; make one with `mmxai harvest` or create_store") from None


def _read(root: Path, plan: Plan) -> Snapshot:
    # Records are listed before segments: a record removed before the listing is in a segment listed after.
    # A store whose making was interrupted has a plan and no record yet.
    names = [p.name for p in (root / COMMITS).iterdir()] if (root / COMMITS).is_dir() else []
    segment = _newest_segment(root, plan)
    loose, damaged = {}, {}
    for part in sorted(int(m[1]) for m in map(RECORD_NAME.fullmatch, names) if m):
        if segment is not None and part in segment:
            continue
        try:
            record = PartRecord.load(root / record_key(part))
            _check(record, plan, root)
            loose[part] = record
        except StoreFormatError as error:
            damaged[part] = str(error)
    return Snapshot(root, plan, segment, loose, damaged, _read_end(root))


def _check(record: PartRecord, plan: Plan, root: Path) -> None:
    path = root / record_key(record.part)
    if record.plan != plan.hash:
        raise StoreFormatError(f"{path}: belongs to plan {record.plan}, the store has {plan.hash}")
    if set(record.rows) != set(plan.spaces):
        raise StoreFormatError(f"{path}: got rows of {sorted(record.rows)}, expected {sorted(plan.spaces)}")
    if plan.parts is not None and record.part >= plan.parts:
        raise StoreFormatError(f"{path}: got part {record.part}, the plan has {plan.parts} parts")


def _newest_segment(root: Path, plan: Plan) -> segments.Segment | None:
    present = segments.numbers(root)
    return segments.Segment(segments.segment_path(root, present[-1]), plan) if present else None


def _read_end(root: Path) -> int | None:
    path = root / END
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return int(sealed.load(data, path)["samples"])
