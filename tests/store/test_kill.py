"""Kill -9 at any moment: every planned row exactly once, no part a mixture of two attempts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from mmxai.store import StoreWriter, read_commits
from mmxai.store.verify import verify
from tests.store.fake import SITES, activations, data_files, harvest, make_plan

ROOT = Path(__file__).resolve().parents[2]


def run_killer(*arguments: object) -> str:
    command = [sys.executable, "-m", "tests.store.killing", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [1])
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    plan = make_plan()
    harvest(tmp_path / "reference", plan)
    expected = data_files(tmp_path / "reference")
    (tmp_path / "killed").mkdir()
    print(run_killer("random", tmp_path / "killed", 100, seed))
    stores = sorted((tmp_path / "killed").iterdir())
    for path in stores:
        StoreWriter.open(path, plan).close()  # removes what the killed left
        report = verify(path)
        assert report.ok and not report.missing and not report.orphans, str(report)
        assert data_files(path) == expected
        array = zarr.open_array(path / "rows" / "vision", mode="r")
        found = array[:]
        counts = np.bincount(found[found[:, 0] >= 0, 0], minlength=60)
        assert counts.tolist() == [len(activations(s)[0]["vision"]) for s in range(60)]


def test_a_part_is_wholly_one_attempt_or_wholly_the_other(tmp_path: Path) -> None:
    plan = make_plan(5)
    wholes = []
    for twist in (0, 1):
        harvest(tmp_path / f"whole{twist}", plan, twist=twist)
        wholes.append(data_files(tmp_path / f"whole{twist}"))
    assert wholes[0] != wholes[1]
    (tmp_path / "stopped").mkdir()
    run_killer("two", tmp_path / "stopped")
    winners = set()
    stores = sorted((tmp_path / "stopped").iterdir())
    assert len(stores) > 100  # each step of the protocol, twice
    for path in stores:
        snapshot = read_commits(path)
        if 0 not in snapshot:  # stopped before it was made: no writer came after the kill
            continue
        # Before any roll-forward: what the record names is there under one name or the other.
        winner = int(snapshot.record(0).producer["twist"])
        for site in SITES:
            for array in site.paths:
                found = snapshot.shard(0, array).read_bytes()
                assert found == wholes[winner][f"{array}/c.0.0"], (path, array)
        StoreWriter.open(path, plan).close()
        report = verify(path)
        assert report.ok and not report.orphans and not report.missing, str(report)
        assert data_files(path) == wholes[winner], path
        winners.add(winner)
    assert winners == {0, 1}
