"""Case `sae`: what all sides share, our side of it, and what a step is compared by."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from mmxai.bench import Options
from mmxai.bench.cases import _sae_ours, _sae_sides, sae_gpu
from mmxai.bench.cases import sae as case
from mmxai.bench.cases._sae_data import planted_rows
from mmxai.bench.cases._sae_ours import make
from mmxai.bench.cases._sae_peers import PLAIN, VARIANTS, best_variants
from mmxai.bench.cases._sae_sides import Work, _loss, measure
from mmxai.bench.figures import UnequalWorkError
from mmxai.bench.peers import peers_of, wanted
from mmxai.bench.peers._sae_ import Rows, dead_of, serve
from mmxai.errors import ArgumentError
from mmxai.methods.sae.trainee import Trainee

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


def test_dead_latents_learn_by_auxk(job, monkeypatch):
    """Beside the same step without it: AuxK changes the gradients of the dead, and of them alone."""
    seen = []

    class Seen(Trainee):
        def step(self, x, target, step, workspace):
            update = self.adam.step

            def kept(weights, found, *args, **options):
                gradients.update({name: g.clone() for name, g in found.items()})
                return update(weights, found, *args, **options)

            gradients = {}
            self.adam.step = kept
            lost = super().step(x, target, step, workspace)
            seen.append((gradients, self.entry(step + 1, target, lost)["aux"]))
            return lost

    monkeypatch.setattr(_sae_ours, "Trainee", Seen)
    for dead in (0.0, 0.25):
        works, _ = serve(job | {"dead": dead}, make)
        works["step"]()
    (plain, nothing), (found, aux) = seen
    assert nothing == 0 and aux > 0
    for name in ("W_enc", "b_enc", "W_dec"):
        differ = (found[name] != plain[name]).view(32, -1).any(1)
        assert differ.nonzero().flatten().tolist() == list(range(24, 32)), name


class Twin:
    """A rival that trains as we do."""

    MEMORY = 2.0**34

    def __init__(self, job):
        self.job = job
        self._works, self._answer = serve(job, make)

    def run(self, what, *args):
        self._works[what](*args)

    def answer(self):
        return self._answer() | {"memory": self.MEMORY}


@pytest.fixture
def twins(monkeypatch):
    """In place of the other trainers, whose environments are not made: those of each time that they run."""
    made = []

    @contextmanager
    def running(options, name, job, own=None):
        made.append({p: Twin({**job, **(own or {}).get(p.name, {})}) for p in wanted(options, name)})
        yield made[-1]

    for module in (case, _sae_sides):
        monkeypatch.setattr(module, "running", running)
    return made


BESIDE = Options(quick=True, peers=())
WORK = Work("", ROWS, 32, 4, repeats=2, steps=150)


def test_figures_beside_rivals(job, twins, tmp_path):
    variants = {name: {"variant": "compiled"} for name in best_variants(BESIDE, job)}
    figures = {f.name: f for f in measure(WORK, job, variants, case.TARGETS, tmp_path, BESIDE)}
    assert set(figures) == {"step_rows_per_second", *case.TARGETS}
    assert {name: figures[name].target for name in case.TARGETS} == case.TARGETS
    assert all(f.value > 0 for f in figures.values())
    assert figures["fvu_vs_best_peer"].value == pytest.approx(1, abs=1e-3)
    assert "after 9,600" in figures["fvu_vs_best_peer"].detail
    # Ours is a process of its own, with nothing but an SAE of a few kilobytes.
    assert figures["peak_memory_vs_least_peer"].value < 2**30 / Twin.MEMORY
    assert "sparsify 16,384 MiB" in figures["peak_memory_vs_least_peer"].detail
    timed, weighed = ({peer.name: t.job["variant"] for peer, t in each.items()} for each in twins)
    assert timed == dict.fromkeys(VARIANTS, "compiled") and weighed == dict.fromkeys(VARIANTS, PLAIN)


def test_every_trainer_as_its_library_sets_it(job, twins):
    variants = best_variants(BESIDE, job)
    assert case._native(WORK, job, variants, 0.2, Options(quick=True)) == [] and not twins
    figures = {f.name: f for f in case._native(WORK, job, variants, 0.2, BESIDE)}
    assert set(figures) == {"native_fvu_ours", *(f"native_fvu_{peer.key}" for peer in peers_of("sae"))}
    assert all(0 < f.value < 1.5 and f.target is None for f in figures.values())
    (each,) = twins
    assert all(twin.job["native"] for twin in each.values())


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (None, None),
        ((), ("sparsify",)),
        (("saelens", "sparsify"), ("sparsify",)),
        (("saelens",), None),
    ],
)
def test_peers_of_the_gpu_case(asked, left):
    assert sae_gpu.with_sparsify_alone(Options(peers=asked)).peers == left


def test_a_peer_of_the_gpu_case_that_nobody_knows():
    with pytest.raises(ArgumentError, match="no peer 'sparsity'"):
        sae_gpu.run(Options(quick=True, peers=("sparsity",)), device="cpu")
