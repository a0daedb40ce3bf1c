"""Case `dissect`: its data, and that each side counts what it should; on the CPU also for the GPU's case."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmxai.bench import Options
from mmxai.bench.cases import _softwpmi, dissect, dissect_gpu
from mmxai.bench.cases._dissect_data import STEPS, Work
from mmxai.bench.cases._dissect_sides import Dense, Loop, Ours, brute_force
from mmxai.bench.cases._softwpmi import Labelling
from mmxai.bench.figures import UnequalWorkError

WORK = Work(pictures=6, units=20, grid=7, size=28, concepts=12, categories=3, present=9)
EVERY = slice(0, 6)


def test_data_are_as_described():
    assert WORK.activations.shape == (6, 49, 20)
    assert torch.equal((WORK.activations * STEPS).round() / STEPS, WORK.activations)
    above = (WORK.activations > WORK.thresholds).flatten(0, 1).sum(0)
    assert (above <= int(0.005 * 6 * 49)).all()
    assert WORK.maps.shape == (6, 3, 28, 28) and WORK.maps.dtype == np.int32
    for picture in WORK.maps:
        for category, plane in enumerate(picture):
            labels = set(np.unique(plane)) - {-1}
            assert len(labels) <= 3 and labels <= set(range(4 * category, 4 * category + 4))
    neighbours = WORK.maps[..., 1:] == WORK.maps[..., :-1]
    assert neighbours.mean() > 0.8


def at_low_thresholds():
    """The same with masks of three cells in ten."""
    work = replace(WORK, seed=1)
    work.__dict__["thresholds"] = work.activations.flatten(0, 1).quantile(0.7, dim=0)
    return work


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_every_side_counts_what_brute_force_does(mode):
    low = at_low_thresholds()
    want = brute_force(low, EVERY, {"nearest": "nearest-exact"}.get(mode, mode))
    assert want[:, -1].min() > 0.2 * 6 * 28**2
    assert torch.equal(getattr(Ours(low), mode)(EVERY), want)
    assert torch.equal(getattr(Dense(low), mode)(EVERY), want)
    if mode == "bilinear":
        assert torch.equal(Loop(low).bilinear(EVERY), want)


def test_a_side_that_counts_otherwise_is_no_rival(monkeypatch):
    work = at_low_thresholds()
    monkeypatch.setattr(Dense, "bilinear", Dense.nearest)
    with pytest.raises(UnequalWorkError, match="dense torch counts other pixels"):
        dissect._agree(work, Ours(work), Dense(work), "cpu")


def test_softwpmi_is_the_loop():
    work = Labelling(neurons=15, pictures=120, words=70, top=20)
    exact = _softwpmi.of_words(work, 70, torch.float64)
    torch.testing.assert_close(_softwpmi.ours(work).double(), exact, rtol=0, atol=1e-4)
    p, tops = _softwpmi.once(work)
    assert (p.sum(1) - 1).abs().max() < 1e-5 and tops.shape == (20, 15)
    given = _softwpmi.given(p, tops, work, 15)
    torch.testing.assert_close(_softwpmi.less_marginal(given).double(), exact, rtol=0, atol=1e-3)
    torch.testing.assert_close(_softwpmi.given_by_rows(p, tops, work, 15), given)


def test_the_case_runs():
    figures = {f.name: f for f in dissect.run(Options(quick=True))}
    assert set(figures) == {*dissect.TARGETS, "softwpmi_vs_loop_by_rows"}
    assert figures["counts_equal"].value == 1 and figures["softwpmi_error"].verdict == "met"
    assert all(f.value >= 0 and f.floor and f.detail for f in figures.values())


def test_that_of_a_gpu_has_its_prefix():
    figures = {f.name: f.target for f in dissect_gpu.run(Options(quick=True), "cpu")}
    assert all(name.startswith("gpu_") for name in figures)
    assert figures["gpu_nearest_vs_dense_torch"] == ">= 30" and figures["gpu_counts_equal"] == ">= 1"


def test_the_work_is_the_one_that_was_asked_for():
    work, labelling = dissect.FULL, dissect.LABELLING
    assert (work.pictures, work.units, work.grid, work.size) == (1000, 768, 14, 112)
    assert (work.concepts, work.categories, work.present) == (600, 4, 30)
    assert (labelling.neurons, labelling.pictures, labelling.words) == (2048, 10_000, 20_000)
