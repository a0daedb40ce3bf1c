"""Truncated files and flipped bits: verify names the part, the rest still reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmxai.errors import CorruptPartError, StoreError, StoreFormatError, StoreNotFoundError
from mmxai.store import StoreWriter, read_commits
from mmxai.store.compact import compact
from mmxai.store.verify import verify
from tests.store.fake import data_files, harvest, make_plan

PART_FILES = [
    "vision.0.resid_post/c.3.0",
    "vision.embeds/c.3.0",
    "rows/vision/c.3.0",
    "mmxai/commits/3.json",
    "mmxai/samples/3.jsonl",
    "mmxai/stats/3.safetensors",
]
STORE_FILES = ["zarr.json", "vision.embeds/zarr.json", "rows/zarr.json", "mmxai/zarr.json", "mmxai/plan.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "whole"
    harvest(path, make_plan(30))
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "s")
    return tmp_path / "s"


def flip(at: float) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        out = bytearray(data)
        out[min(int(at * len(out)), len(out) - 1)] ^= 1
        return bytes(out)

    return damage


DAMAGES = {
    "first bit": flip(0),
    "a bit at a third": flip(0.37),
    "a bit near the end": flip(0.999),
    "the last bit": flip(1),
    "last byte cut": lambda data: data[:-1],
    "half cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "a byte more": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", PART_FILES)
def test_damage_to_a_part_is_named(store: Path, key: str, damage: str) -> None:
    (store / key).write_bytes(DAMAGES[damage]((store / key).read_bytes()))
    report = verify(store)
    assert report.damaged_parts == [3], str(report)
    assert {p.key for p in report.problems} == {key}
    assert key in str(report) and "part 3" in str(report)
    snapshot = read_commits(store)
    for part in {0, 1, 2, 4, 5}:
        assert snapshot.samples_text(part).count(b"\n") == 5 and snapshot.part_stats(part)
    if "commits" in key:
        with pytest.raises(CorruptPartError, match="part 3"):
            StoreWriter.open(store, make_plan(30))
    if "samples" in key:
        with pytest.raises(CorruptPartError):
            snapshot.samples_text(3)
    if "stats" in key:
        with pytest.raises(CorruptPartError):
            snapshot.part_stats(3)


@pytest.mark.parametrize("key", PART_FILES[:3] + PART_FILES[4:])
def test_a_lost_file_is_named(store: Path, key: str) -> None:
    (store / key).unlink()
    report = verify(store, deep=False)
    assert [(p.part, p.key) for p in report.problems] == [(3, key)]


@pytest.mark.parametrize("damage", ["first bit", "a bit at a third", "half cut", "emptied"])
@pytest.mark.parametrize("key", STORE_FILES)
def test_damage_to_a_document_is_named(store: Path, key: str, damage: str) -> None:
    (store / key).write_bytes(DAMAGES[damage]((store / key).read_bytes()))
    report = verify(store)
    assert [p.key for p in report.problems] == [key], str(report)


def test_every_bit_of_small_files_counts(store: Path) -> None:
    """A flipped bit anywhere in a record, the plan or a document is noticed, or changes no meaning."""
    rng = np.random.default_rng(0)
    for key in ("mmxai/commits/3.json", "mmxai/plan.json", "vision.embeds/zarr.json", "zarr.json"):
        data = (store / key).read_bytes()
        for _ in range(60):
            at, bit = int(rng.integers(len(data))), int(rng.integers(8))
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            (store / key).write_bytes(damaged)
            assert not verify(store, deep=False).ok, (key, at, bit, data[at : at + 1])
        (store / key).write_bytes(data)


def test_a_quick_verify_reads_no_arrays(store: Path) -> None:
    (store / PART_FILES[0]).write_bytes(flip(0)((store / PART_FILES[0]).read_bytes()))
    assert verify(store, deep=False).ok
    assert verify(store, deep=False).bytes_read == 0


def test_damage_to_a_segment_is_named(store: Path) -> None:
    assert compact(store) == 6
    assert verify(store).ok
    segment = store / "mmxai/segments/0.safetensors"
    data = segment.read_bytes()
    for at in np.linspace(0, len(data) - 1, 40, dtype=int).tolist():
        damaged = bytearray(data)
        damaged[at] ^= 4
        segment.write_bytes(damaged)
        report = verify(store)
        assert not report.ok and "segments/0" in str(report), at
    segment.write_bytes(data[:-1])
    with pytest.raises(StoreFormatError, match="segments/0"):
        read_commits(store)
    segment.write_bytes(data)
    (store / PART_FILES[0]).write_bytes(flip(0.2)((store / PART_FILES[0]).read_bytes()))
    assert verify(store).damaged_parts == [3]


def test_a_damaged_part_can_be_made_again(store: Path, whole: Path) -> None:
    (store / PART_FILES[0]).write_bytes(b"")
    (store / "mmxai/commits/3.json").unlink()
    assert verify(store).missing == [3] and verify(store).orphans
    harvest(store, make_plan(30))
    assert verify(store).ok and data_files(store) == data_files(whole)


def test_not_a_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreNotFoundError):
            verify(path)
        with pytest.raises(StoreNotFoundError):
            read_commits(path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="something else"):
        StoreWriter.open(tmp_path, make_plan())
