"""Case `sae`: what all sides share, our side of it, and what a step is compared by."""

import numpy as np
import pytest
import torch

from mmxai.bench import Options
from mmxai.bench.cases import sae as case
from mmxai.bench.cases import sae_gpu
from mmxai.bench.cases._sae_data import planted_rows
from mmxai.bench.cases._sae_ours import make
from mmxai.bench.cases._sae_peers import VARIANTS
from mmxai.bench.cases._sae_sides import _loss
from mmxai.bench.figures import UnequalWorkError
from mmxai.bench.peers import peers_of
from mmxai.bench.peers._sae_ import Rows, dead_of, serve

WIDTH, ROWS, HELD = 16, 64, 40


@pytest.fixture
def job(tmp_path):
    """Three batches of sparse sums of directions, and 40 rows held out."""
    draw = np.random.default_rng(0)
    directions = draw.standard_normal((24, WIDTH)) / WIDTH**0.5
    codes = draw.random((3 * ROWS + HELD, 24)) * (draw.random((3 * ROWS + HELD, 24)) < 0.1)
    (codes @ directions).astype(np.float32).tofile(tmp_path / "rows.f32")
    return {
        "data": str(tmp_path / "rows.f32"), "width": WIDTH, "rows": ROWS, "held": HELD, "threads": 1,
        "latents": 32, "k": 4, "dead": 0.0, "native": False, "variant": "plain", "preload": 2,
        "device": "cpu", "product": "float32",
    }  # fmt: skip


def test_rows_are_batches_in_turn_then_held_ones(job):
    rows = Rows(job)
    everything = torch.from_numpy(np.fromfile(job["data"], np.float32)).view(-1, WIDTH)
    assert rows.batches == 3
    assert torch.equal(rows.batch(1), everything[ROWS : 2 * ROWS])
    assert torch.equal(rows.batch(4), rows.batch(1))
    assert torch.equal(rows.held(), everything[3 * ROWS :])


@pytest.mark.parametrize("dead", [0.0, 0.25])
def test_ours_learns(job, dead):
    works, answer = serve(job | {"dead": dead}, make)
    works["step"]()
    first = answer()
    works["finish"](150)
    last = answer()
    assert last["rows"] == 150 * ROWS
    assert last["fvu"] < 0.7 * first["fvu"] and last["memory"] >= 0


def test_which_latents_are_dead(job):
    assert dead_of(job | {"dead": 0.25}) == slice(24, 32)
    assert dead_of(job) == slice(32, 32)


def test_a_side_that_did_not_train_is_no_rival():
    good = {"fvu": 0.5, "rows": 10.0, "memory": 1.0}
    value, detail = _loss({"ours": good, "peer": good | {"fvu": 0.4}, "other": good})
    assert value == pytest.approx(1.25) and "after 10: ours 0.5000, peer 0.4000" in detail
    with pytest.raises(UnequalWorkError, match=r"peer came to FVU 0\.95"):
        _loss({"ours": good, "peer": good | {"fvu": 0.95}})
    with pytest.raises(UnequalWorkError, match="after 5 rows"):
        _loss({"ours": good, "peer": good | {"rows": 5.0}})


def test_peers_have_targets_and_variants():
    peers = peers_of("sae")
    assert {f"step_vs_{p.key}" for p in peers} < set(case.TARGETS)
    assert {p.name for p in peers} == set(VARIANTS)


def test_planted_rows_are_what_an_sae_finds(tmp_path, job):
    path = planted_rows(tmp_path, WIDTH, ROWS, 3, HELD, "cpu")
    rows = Rows(job | {"data": str(path)})
    assert rows.batches == 3
    assert rows.batch(0).square().sum(1).mean() == pytest.approx(1)
    works, answer = serve(job | {"data": str(path)}, make)
    works["finish"](150)
    assert answer()["fvu"] < 0.6


def test_the_gpu_case_on_the_cpu():
    """Its sizes and its speed mean nothing here; that it runs through does."""
    figures = {f.name: f for f in sae_gpu.run(Options(quick=True), device="cpu")}
    assert set(figures) == {"gpu_encoder_product_share", "gpu_step_rows_per_second"}
    assert all(f.value > 0 and f.target is None for f in figures.values())
