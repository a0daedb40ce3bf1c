"""`StoreWriter`: opens, creates or resumes a store and deals out its parts."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mmxai
from mmxai.errors import ArgumentError, CorruptPartError, PlanMismatchError, StoreError, StoreExistsError
from mmxai.store import layout, sealed, skeleton
from mmxai.store.commit import END, PLAN, record_key
from mmxai.store.files import create_if_absent, disk_full, probe_link
from mmxai.store.locks import Claims, StoreLock
from mmxai.store.part import PartWriter
from mmxai.store.plan import Plan
from mmxai.store.snapshot import read_commits


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
