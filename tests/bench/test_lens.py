"""Case `lens`: its sides do the same work, and what is held against each other differs where it should."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import mmxai
from mmxai.bench import Options
from mmxai.bench.cases import lens, lens_gpu
from mmxai.bench.cases._lens_sides import Sides, Work, write
from mmxai.bench.figures import UnequalWorkError
from mmxai.bench.peers import peers_of

WORK = Work(blocks=4, positions=9, width=24, vocabulary=200, k=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lens")
    write(folder, WORK)
    return folder


@pytest.fixture(scope="module")
def sides(folder):
    sides = Sides(folder, WORK)
    sides.ours()
    sides.naive()
    return sides


def test_the_sides_agree(sides):
    ours, naive = sides.found["ours"], sides.found["naive"]
    assert ours.keys() == naive.keys() and ours["ids"].shape == (4, 9, 5)
    lens._agree("dense torch", ours, naive, WORK)
    assert torch.equal(ours["ids"], naive["ids"].int()) and torch.equal(ours["ranks"], naive["ranks"])
    torch.testing.assert_close(ours["kl"][-1], torch.zeros(9), atol=1e-6, rtol=0)
    assert bool((ours["kl"][0] > 0.1).all())


@pytest.mark.parametrize("key", ["ids", "logs", "ranks", "entropy", "kl", "target_logs"])
def test_a_side_with_other_answers_is_no_rival(sides, key):
    wrong = {name: x.clone() for name, x in sides.found["naive"].items()}
    wrong[key][1] += 3
    with pytest.raises(UnequalWorkError, match=key):
        lens._agree("dense torch", sides.found["ours"], wrong, WORK)


def test_some_blocks_are_the_last(folder, sides):
    few = Sides(folder, WORK)
    few.naive(2)
    for name, x in few.found["naive"].items():
        torch.testing.assert_close(x, sides.found["naive"][name][-2:])


def test_exact_is_in_float64(sides):
    exact = sides.exact(5)
    assert exact["logs"].dtype == torch.float64 and exact["logs"].shape == (4, 5, 5)
    apart = sides.found["naive"]["logs"][:, :5] - exact["logs"]
    assert 0 < float(apart.abs().max()) < 1e-5


def test_memory_is_that_of_a_process_of_its_own(folder, tmp_path):
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"folder": str(folder), "threads": 1, "work": asdict(WORK)}))
    command = [sys.executable, "-m", "mmxai.bench.cases._lens_sides", str(file), "ours"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(mmxai.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert 0 <= int(done.stdout) < 1 << 28


def test_the_case_runs_and_without_rivals_has_no_ratio_to_them(tmp_path):
    figures = {f.name: f for f in lens.run(Options(quick=True, warm_folder=str(tmp_path)))}
    assert set(figures) == {"lens_product_share", "lens_vs_naive", "lens_error", "lens_memory_share"}
    assert all(f.floor and f.detail and f.target for f in figures.values())
    assert figures["lens_error"].verdict == "met"
    assert not list(tmp_path.iterdir())


def test_the_gpu_case_on_the_cpu(tmp_path):
    names = [f.name for f in lens_gpu.run(Options(quick=True, warm_folder=str(tmp_path)), "cpu")]
    assert names == [
        f"gpu_lens_{name}{suffix}" for suffix in ("", "_bf16") for name in ("product_share", "vs_naive")
    ]


def test_the_work_is_the_one_that_was_asked_for():
    full = lens.FULL
    assert (full.blocks, full.positions, full.width, full.vocabulary, full.k) == (12, 512, 768, 50_257, 5)
    assert [p.name for p in peers_of("lens")] == ["transformer-lens"]
