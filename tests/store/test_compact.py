"""Compaction: nothing changes for a reader, a crash anywhere is harmless, opening stays quick."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from mmxai.errors import CorruptPartError, StoreInUseError
from mmxai.stats import merge
from mmxai.store import Plan, Snapshot, StoreWriter, layout, read_commits, sealed
from mmxai.store.commit import FileRecord, PartRecord, record_key, samples_key, stats_key
from mmxai.store.compact import compact, merge_stats
from mmxai.store.verify import verify
from tests.store.fake import SITES, data_files, harvest, make_plan, write_part


def contents(snapshot: Snapshot) -> dict:
    """All a snapshot says, in a form that compares."""
    parts = snapshot.parts.tolist()
    return {
        "parts": parts,
        "first": snapshot.first.tolist(),
        "samples": snapshot.samples.tolist(),
        "rows": {s: r.tolist() for s, r in snapshot.rows.items()},
        "attempts": [snapshot.attempt(p) for p in parts],
        "chunks": [[snapshot.chunks(p, a).tolist() for a in snapshot.plan.arrays] for p in parts],
        "texts": [snapshot.samples_text(p) for p in parts],
        "producers": [snapshot.record(p).producer for p in parts],
        "digests": [snapshot.record(p).digest for p in parts],
        "sizes": [[f.size for f in snapshot.record(p).files if "c." in f.key] for p in parts],
    }


def bits(stats: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in stats.items()}


def test_a_reader_sees_no_difference(tmp_path: Path) -> None:
    path, plan = tmp_path / "s", make_plan(60)
    with StoreWriter.open(path, plan) as writer:
        for part in (7, 2, 3):
            write_part(writer, part)
    before, stats = contents(read_commits(path)), bits(merge_stats(read_commits(path)))
    assert compact(path) == 3
    folded = read_commits(path)
    assert contents(folded) == before and not folded.loose
    assert bits(merge_stats(folded)) == stats
    assert compact(path) == 0
    assert sorted(os.listdir(path / "mmxai/commits")) == []

    with StoreWriter.open(path, plan) as writer:  # and goes on
        assert writer.committed() == {2, 3, 7}
        assert not write_part(writer, 2, twist=1)  # a folded part is owned, though it has no record
        for part in writer.todo():
            write_part(writer, part)
    before = contents(read_commits(path))
    assert compact(path) == 9
    assert os.listdir(path / "mmxai/segments") == ["1.safetensors"]
    assert contents(read_commits(path)) == before
    report = verify(path)
    assert report.ok and not report.missing and not report.orphans
    harvest(tmp_path / "whole", plan)
    arrays = {k: v for k, v in data_files(path).items() if not k.startswith("mmxai/")}
    assert arrays == {k: v for k, v in data_files(tmp_path / "whole").items() if not k.startswith("mmxai/")}


def test_folded_statistics_equal_merged_ones(tmp_path: Path) -> None:
    harvest(tmp_path / "s", make_plan(60))
    snapshot = read_commits(tmp_path / "s")
    expected = {}
    for site in SITES:
        states = [snapshot.part_stats(p) for p in snapshot.parts.tolist()]
        mine = [{k.split("/")[1]: v for k, v in s.items() if k.startswith(site.name + "/")} for s in states]
        expected |= {f"{site.name}/{k}": v for k, v in merge(mine).items()}
    compact(tmp_path / "s")
    (folded,) = read_commits(tmp_path / "s").stats_states()
    assert folded.keys() == expected.keys()
    for name, value in folded.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_crash_while_compacting_is_harmless(tmp_path: Path, step: int) -> None:
    path = tmp_path / "s"
    harvest(path, make_plan(30))
    compact(path) if step % 2 else None
    before = contents(read_commits(path))
    child = os.fork()
    if child == 0:
        calls = iter(range(1000))
        for name in ("link", "unlink", "open", "write"):
            real = getattr(os, name)

            def dying(*args: object, _real: object = real, **kwargs: object) -> object:
                if next(calls) == step:
                    os._exit(9)
                return _real(*args, **kwargs)  # type: ignore[operator]

            setattr(os, name, dying)
        try:
            compact(path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert contents(read_commits(path)) == before
    compact(path)
    assert contents(read_commits(path)) == before
    report = verify(path)
    assert report.ok and not report.orphans


def test_compaction_needs_the_store_to_itself(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(5)), pytest.raises(StoreInUseError):
        compact(tmp_path / "s")


def test_damage_is_not_folded_away(tmp_path: Path) -> None:
    harvest(tmp_path / "s", make_plan(10))
    (tmp_path / "s" / samples_key(1)).write_bytes(b"{}\n")
    with pytest.raises(CorruptPartError, match="part 1"):
        compact(tmp_path / "s")
    assert len(read_commits(tmp_path / "s")) == 2


def test_ten_thousand_parts_open_quickly(tmp_path: Path) -> None:
    """Records are written without their shards: opening never looks at those."""
    path, parts = tmp_path / "s", 10_000
    plan: Plan = make_plan(parts * 2, 2)
    StoreWriter.open(path, plan).close()
    plan = read_commits(path).plan
    for part in range(parts):
        files = []
        for key, data in ((samples_key(part), SAMPLES), (stats_key(part), STATS)):
            (path / key).write_bytes(data)
            files.append(FileRecord(key, len(data), sealed.crc32c(data)))
        rows = dict.fromkeys(plan.spaces, 2)
        shards = [
            FileRecord(layout.shard_key(a, part), s.file_bytes(2), 0, np.array([part], np.uint32))
            for a, s in plan.arrays.items()
        ]
        record = PartRecord(
            part, f"{part:016x}", plan.hash, 2 * part, 2, "00" * 16, rows, (*shards, *files), {"host": "a"}
        )
        (path / record_key(part)).write_bytes(sealed.dump(record.to_json()))
    start = time.perf_counter()
    loose = read_commits(path)
    seconds = time.perf_counter() - start
    assert compact(path) == parts
    start = time.perf_counter()
    folded = read_commits(path)
    after = time.perf_counter() - start
    assert (folded.parts == loose.parts).all() and (folded.rows["vision"] == loose.rows["vision"]).all()
    print(f"{parts} parts: {seconds:.2f} s from records, {after * 1000:.1f} ms from a segment")
    assert after < seconds / 5


SAMPLES = b'{"sample":0,"key":"k","hash":"h"}\n'
STATS = b"\x08\0\0\0\0\0\0\0{}      "
