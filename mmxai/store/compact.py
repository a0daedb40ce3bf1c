"""Folding the records, samples and statistics of all committed parts into one segment file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mmxai.errors import CorruptPartError, StoreInUseError
from mmxai.stats import Merger
from mmxai.store import segments, skeleton
from mmxai.store.commit import COMMITS, SAMPLES, SEGMENTS, STATS, record_key, samples_key, stats_key
from mmxai.store.files import fsync_directory, link_if_absent, new_attempt, staged, write_file
from mmxai.store.locks import StoreLock
from mmxai.store.snapshot import Snapshot, load_plan, read_commits


def compact(path: str | Path) -> int:
    """Fold every committed part of the store at `path` into a new segment; how many were not folded yet.

    Alone with the store: StoreInUseError while anything writes to it. Readers may go on. Killed at any
    moment it leaves a whole store. CorruptPartError when a file to be folded is damaged: nothing is folded.
    """
    root = Path(path)
    plan = load_plan(root)
    lock = StoreLock(root)
    try:
        if not lock.try_exclusive():
            raise StoreInUseError(
                f"{root}: a writer has the store open; compact it when the writer has ended"
            )
        snapshot = read_commits(root, plan)
        skeleton.clean(root, snapshot)
        for part, what in snapshot.damaged.items():
            raise CorruptPartError(what, part=part, key=record_key(part))
        if snapshot.loose:
            _fold(root, snapshot)
        _remove_folded(root, snapshot)
        return len(snapshot.loose)
    finally:
        lock.close()


def _fold(root: Path, snapshot: Snapshot) -> None:
    plan = snapshot.plan
    # Once records are gone nothing rolls a part forward again: the final names must be durable first.
    for directory in skeleton.part_directories(plan):
        fsync_directory(root / directory)
    parts = snapshot.parts.tolist()
    data = segments.encode(
        plan,
        [snapshot.record(p) for p in parts],
        [snapshot.samples_text(p) for p in parts],
        merge_stats(snapshot),
    )
    number = max(segments.numbers(root), default=-1) + 1
    target = segments.segment_path(root, number)
    temporary = staged(target, new_attempt())
    try:
        write_file(temporary, data, durable=True)
        if not link_if_absent(temporary, target):
            raise StoreInUseError(f"{target}: appeared meanwhile; another process ignores the store's lock")
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(root / SEGMENTS)


def merge_stats(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Statistics of the whole snapshot, `<site>/<name>`, one part in memory at a time."""
    mergers: dict[str, Merger] = {}
    for states in snapshot.stats_states():
        by_site: dict[str, dict[str, np.ndarray]] = {}
        for name, value in states.items():
            site, _, field = name.rpartition("/")
            by_site.setdefault(site, {})[field] = value
        for site, state in by_site.items():
            mergers.setdefault(site, Merger()).add(state)
    return {f"{site}/{k}": v for site, merger in mergers.items() for k, v in merger.result().items()}


def _remove_folded(root: Path, snapshot: Snapshot) -> None:
    """Remove what the newest segment holds, also what a compaction that was killed left behind."""
    present = segments.numbers(root)
    if not present:
        return
    newest = segments.Segment(segments.segment_path(root, present[-1]), snapshot.plan)
    for directory, key in ((COMMITS, record_key), (SAMPLES, samples_key), (STATS, stats_key)):
        names = set(os.listdir(root / directory))
        for part in newest.parts.tolist():
            if Path(key(part)).name in names:
                (root / key(part)).unlink(missing_ok=True)
        fsync_directory(root / directory)
    for number in present[:-1]:
        segments.segment_path(root, number).unlink(missing_ok=True)
