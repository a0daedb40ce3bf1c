"""StoreWriter and PartWriter: resume, sharing of work, refusals, disk full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from mmxai.errors import (
    ArgumentError,
    DiskFullError,
    PlanMismatchError,
    StoreError,
    StoreExistsError,
    StoreInUseError,
)
from mmxai.store import StoreWriter, read_commits
from mmxai.store.compact import compact
from mmxai.store.verify import verify
from tests.store.fake import activations, data_files, harvest, make_plan, sample_object, write_part

ROOT = Path(__file__).resolve().parents[2]


def staged_files(path: Path) -> list[Path]:
    return [p for p in path.rglob(".*") if p.is_file()]


def test_resume_makes_only_what_is_missing(tmp_path: Path) -> None:
    plan = make_plan(23)
    with StoreWriter.open(tmp_path / "s", plan) as writer:
        for part in writer.todo():
            write_part(writer, part)
            if part == 2:
                break
    made = []
    with StoreWriter.open(tmp_path / "s", plan) as writer:
        assert writer.committed() == {0, 1, 2}
        for part in writer.todo():
            made.append(part)
            assert write_part(writer, part)
        assert list(writer.todo()) == []
    assert made == [3, 4]
    harvest(tmp_path / "whole", plan)
    assert data_files(tmp_path / "s") == data_files(tmp_path / "whole")
    with pytest.raises(StoreExistsError):
        StoreWriter.open(tmp_path / "s", plan, resume=False)


def test_work_is_dealt_by_rank_then_helped_out(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(50)) as writer:
        assert list(writer.todo(1, 3)) == [1, 4, 7, 2, 5, 8, 0, 3, 6, 9]
        # Claimed by this writer until their attempts end.
        assert list(writer.todo(0, 1)) == []
        writer.part(4).abort()
        assert list(writer.todo(0, 1)) == [4]
        with pytest.raises(ArgumentError):
            next(writer.todo(3, 3))


def test_claims_of_a_live_process_are_skipped(tmp_path: Path) -> None:
    plan = make_plan(20)
    code = """
        import sys
        from mmxai.store import StoreWriter
        from tests.store.fake import make_plan
        with StoreWriter.open(sys.argv[1], make_plan(20)) as writer:
            next(writer.todo())
            print("claimed", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "s")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"claimed\n"
        with StoreWriter.open(tmp_path / "s", plan) as writer:
            assert list(writer.todo()) == [1, 2, 3]
            with pytest.raises(StoreInUseError):
                compact(tmp_path / "s")
            other.kill()
            other.wait()
            assert list(writer.todo()) == [0]


def test_the_second_attempt_loses_and_cleans_up(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(5)) as writer:
        assert write_part(writer, 0, twist=0)
        before = data_files(tmp_path / "s")
        assert not write_part(writer, 0, twist=1)
        assert data_files(tmp_path / "s") == before
    assert not staged_files(tmp_path / "s")


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(10)) as writer:
        with pytest.raises(KeyError), writer.part(0) as attempt:
            tables, acts = activations(3)
            attempt.write("vision.pooled", tables["vision.pooled"], {"vision.embeds": acts["vision.embeds"]})
            assert staged_files(tmp_path / "s")
            raise KeyError
        assert not staged_files(tmp_path / "s")
        with pytest.raises(StoreError, match="already"):
            attempt.commit([])
        assert list(writer.todo()) == [0, 1]


def test_wrong_tensors_are_refused(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(10)) as writer, writer.part(0) as attempt:
        tables, acts = activations(3)
        table, x = tables["vision.pooled"], acts["vision.embeds"]
        for rows, given in [
            (table, {}),
            (table, {"vision.embeds": x, "other": x}),
            (table, {"vision.embeds": x.half()}),
            (table, {"vision.embeds": x[:, :3]}),
            (table.long(), {"vision.embeds": x}),
            (table.repeat(2, 1), {"vision.embeds": x}),
            (table.repeat(7, 1), {"vision.embeds": torch.empty(7, 7).T}),
            (table.repeat(9, 1), {"vision.embeds": x.repeat(9, 1)}),
        ]:
            with pytest.raises(ArgumentError):
                attempt.write("vision.pooled", rows, given)
        assert attempt.num_rows("vision.pooled") == 0
        with pytest.raises(ArgumentError, match="data set indices"):
            attempt.commit([sample_object(0)])


def test_a_wrong_sample_list_commits_nothing(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan(5)) as writer:
        for samples in ([], [{"sample": 1}], [sample_object(s) for s in range(5)][::-1]):
            with pytest.raises(ArgumentError), writer.part(0) as attempt:
                attempt.commit(samples)
        assert writer.committed() == set() and not staged_files(tmp_path / "s")


def test_unknown_length_grows_and_ends(tmp_path: Path) -> None:
    plan = make_plan(None)
    with StoreWriter.open(tmp_path / "s", plan) as writer:
        todo = writer.todo()
        assert [next(todo) for _ in range(3)] == [0, 1, 2]
        for part in (1, 0):
            write_part(writer, part)
        array = zarr.open_array(tmp_path / "s" / "vision.embeds", mode="r")
        assert array.shape == (2 * plan.capacity("vision.pooled"), 7)
        assert read_commits(tmp_path / "s").total_parts is None
        writer.finish(10)
        with pytest.raises(StoreError, match="data changed"):
            writer.finish(11)
    assert read_commits(tmp_path / "s").total_parts == 2
    with StoreWriter.open(tmp_path / "s", plan) as writer:
        assert list(writer.todo()) == []
    assert verify(tmp_path / "s").ok


def test_without_link_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"link\(2\)"):
        StoreWriter.open(tmp_path / "s", make_plan())
    monkeypatch.setattr(os, "link", shutil.copyfile)
    with pytest.raises(StoreError, match="did not fail"):
        StoreWriter.open(tmp_path / "s", make_plan())
    monkeypatch.undo()
    StoreWriter.open(tmp_path / "s", make_plan()).close()


def test_two_plans_at_once(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "s", make_plan()), pytest.raises(PlanMismatchError):
        StoreWriter.open(tmp_path / "s", make_plan(61))


def test_interrupted_creation_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, count = os.rename, iter(range(100))

    def fail(a: object, b: object) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt
        rename(a, b)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        StoreWriter.open(tmp_path / "s", make_plan(10))
    monkeypatch.undo()
    harvest(tmp_path / "s", make_plan(10))
    report = verify(tmp_path / "s")
    assert report.ok and not report.orphans and not report.missing


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_told_and_resumed_from(small_disk: Path) -> None:
    plan = make_plan(400, 20)
    (small_disk / "ballast").write_bytes(bytes(7_700_000))
    with pytest.raises(DiskFullError, match="resume"):
        harvest(small_disk / "s", plan)
    report = verify(small_disk / "s")
    assert report.ok and report.missing and report.parts > 0 and not report.orphans
    assert not staged_files(small_disk / "s")
    with pytest.raises(DiskFullError):
        harvest(small_disk / "s", plan)
    (small_disk / "ballast").unlink()
    harvest(small_disk / "s", plan)
    report = verify(small_disk / "s")
    assert report.ok and not report.missing and not report.orphans


def test_no_room_even_for_the_plan(small_disk: Path) -> None:
    with pytest.raises(OSError), open(small_disk / "ballast", "wb") as ballast:
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(DiskFullError):
        StoreWriter.open(small_disk / "s", make_plan())


def test_many_small_writes_equal_one_large(tmp_path: Path) -> None:
    plan = make_plan(1, 1)
    rng = np.random.default_rng(0)
    acts = {
        s.name: torch.from_numpy(rng.normal(size=(9, s.width))).to(getattr(torch, s.row_dtype))
        for s in plan.sites
    }
    table = torch.zeros(9, 8, dtype=torch.int32)
    for name, cuts in (("one", [(0, 9)]), ("many", [(i, i + 1) for i in range(9)])):
        with StoreWriter.open(tmp_path / name, plan) as writer, writer.part(0) as attempt:
            for a, b in cuts:
                here = {s.name: acts[s.name][a:b] for s in plan.sites_of("vision")}
                attempt.write("vision", table[a:b], here)
            attempt.commit([sample_object(0)])
    assert data_files(tmp_path / "one") == data_files(tmp_path / "many")
