"""Case `probe`: what it is measured on, our side of it, and what it holds the rivals' answers to."""

import importlib.util
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import mmxai
from mmxai.bench import Options, peers
from mmxai.bench.cases import _probe_data, probe
from mmxai.bench.cases._probe_data import STORE, Work
from mmxai.bench.cases._probe_equal import coef_error, held_out_r2, objectives_apart
from mmxai.bench.cases._probe_ours import Side
from mmxai.bench.peers import peers_of
from mmxai.bench.peers._threads_ import quickest

WORK = Work(sites=2, rows=400, width=16, classes=3, folds=4, penalties=(0.1, 10.0))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    _probe_data.write(folder, WORK)
    return {
        "store": str(folder / STORE), "folder": str(folder), "data": str(folder / "rows.f32"),
        "width": 16, "classes": 3, "folds": 4, "penalties": [0.1, 10.0], "threads": 1, "iterations": 1000,
        "found": "sklearn",
    }  # fmt: skip


@pytest.fixture(scope="module")
def side(job):
    side = Side(job)
    side.ridge(1)
    side.logistic(1)
    return side


@pytest.fixture(scope="module")
def theirs(job):
    """The rival's own script, run here: scikit-learn is among what tests need."""
    spec = importlib.util.spec_from_file_location("peer", Path(peers.__file__).parent / "sklearn_.py")
    script = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(peers.__file__).parent))  # as _serve.py does
    spec.loader.exec_module(script)
    sys.path.pop()
    works, answer = script.prepare(job | {"threads": 2})
    for work in works.values():
        work()
    found = answer()
    assert found.pop("threads").keys() == {"ridge", "logistic"}
    return {name: np.load(path) for name, path in found.items()}


def test_rivals_have_the_rows_of_the_first_site(job):
    with mmxai.open_store(job["store"]) as store:
        assert len(store) == 2
        first = next(iter(store.values()))
        assert first.shape == (400, 16)
        assert np.array_equal(first[0:400].numpy().ravel(), np.fromfile(job["data"], np.float32))
    fold = np.load(Path(job["folder"]) / "fold.npy")
    assert np.bincount(fold).tolist() == [100] * 4


def test_coefficients_are_scikit_learns(job, theirs):
    side, exact = Side(job), theirs["exact_coef"]
    side.ridge_float64(1)
    coef, intercept = side.found["ridge"]
    assert coef.shape == (2, 4, 2, 3, 16) and side.product == "float64" and side.rounding is None
    assert coef_error(coef, exact) < 1e-9
    assert coef_error(theirs["ridge_coef"], exact) > 1e-9  # that one is float32
    np.testing.assert_allclose(intercept, theirs["exact_intercept"], atol=1e-8)


def test_products_in_float32_cost_what_was_estimated(side, theirs):
    assert side.product == "float32"
    assert 1e-9 < coef_error(side.found["ridge"][0], theirs["exact_coef"]) < 2 * side.rounding < 6e-5


def test_a_rival_has_the_threads_it_is_quickest_with():
    tried = []

    def run(best, count):
        tried.append(count)
        time.sleep(0.01 if count == best else 0.03)

    assert quickest(partial(run, 1), 4) == 1
    assert quickest(partial(run, 4), 4) == 4
    assert sorted(tried) == [1] * 6 + [4] * 6
    assert quickest(partial(run, 1), 1) == 1


def test_the_error_is_that_of_the_worst_fit():
    exact = np.ones((2, 3, 2, 3, 4))
    off = exact.copy()
    off[1, 2, 0] *= 1.01
    assert coef_error(off, exact) == pytest.approx(0.01)


def test_objectives_are_compared_fit_by_fit(side, theirs):
    pair = theirs["logistic_coef"], theirs["logistic_intercept"]
    apart = objectives_apart(side, side.found["logistic"], pair)
    assert apart.shape == (2, 4, 2) and apart.max() < 1e-4
    worse = [v.copy() for v in side.found["logistic"]]
    worse[0][1, 2, 0] *= 3
    found = objectives_apart(side, tuple(worse), pair) > 1e-4
    assert found[1, 2, 0] and found.sum() == 1
    assert side.passes > 0


def test_held_out_r2_is_of_rows_nobody_fitted(side):
    """Above 0 for the planted task, and about 0 or below for drawn labels."""
    coef, intercept = (v[:, :, :1] for v in side.found["ridge"])
    one = Side(side.job)
    one.labels = side.labels[:, :1]
    assert held_out_r2(one, coef, intercept) > 0.2
    one.labels = side.labels[:, 1:]
    assert held_out_r2(one, coef, intercept) < 0


def test_every_site_is_done_and_sites_are_read_by_block(job, monkeypatch):
    monkeypatch.setattr("mmxai.bench.cases._probe_ours.BLOCK", 90)
    whole, done = Side(job), []
    monkeypatch.setattr(Side, "_ridge", lambda self, site, product: done.append(site))
    whole.ridge()
    assert sorted(done) == sorted(whole.store)
    monkeypatch.undo()
    blocks = [x.shape[0] for x, labels, fold in whole._blocks(done[0]) if len(x) == len(labels) == len(fold)]
    assert sum(blocks) == 400


def test_memory_is_that_of_a_process_of_its_own(job, tmp_path):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "mmxai.bench.cases._probe_ours", str(file), "ridge", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(mmxai.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 1 << 30


def test_the_case_runs_and_without_rivals_has_no_ratio(tmp_path):
    figures = probe.run(Options(quick=True, warm_folder=str(tmp_path)))
    names = {f.name for f in figures}
    assert names == {
        "probe_ridge_sites_per_second", "probe_ridge_float64_sites_per_second",
        "probe_logistic_sites_per_second", "probe_ridge_peak_mib", "probe_logistic_peak_mib",
    }  # fmt: skip
    assert all(f.value > 0 and f.floor and f.detail for f in figures)
    assert not list(tmp_path.iterdir())


def test_the_work_is_the_one_that_was_asked_for():
    assert (probe.FULL.sites, probe.FULL.rows, probe.FULL.width, probe.FULL.classes) == (13, 10_000, 768, 10)
    assert (len(probe.FULL.penalties), probe.FULL.folds, probe.FULL.fits) == (7, 5, 70)
    assert {p.name for p in peers_of("probe")} == {"sklearn", "himalaya"}


def test_labels_of_the_control_say_nothing_of_the_rows(job):
    labels = torch.from_numpy(np.load(Path(job["folder"]) / "labels.npy"))
    assert labels.shape == (400, 2)
    assert abs(float((labels[:, 0] == labels[:, 1]).double().mean()) - 1 / 3) < 0.1
