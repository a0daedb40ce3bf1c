"""Training from a store: it learns, resumes to the last digit, shares batches, refuses bad input early."""

import json
import weakref

import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, CheckpointError, NonFiniteError, SelectionError, UnknownSiteError
from mmxai.methods.sae import TrainConfig, load_sae, train_sae
from mmxai.methods.sae import train as training
from mmxai.methods.sae import trainee as trainee_module
from mmxai.methods.sae.trainee import Trainee
from mmxai.types import Rows
from tests.methods.sae.stores import ACTIVE, make_store, planted

SMALL = {
    "sites": ("t.0.x",), "latents": 64, "k": ACTIVE, "batch": 128, "lr": 3e-3, "log_every": 10,
    "save_every": 7, "init_rows": 1024,
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "acts.zarr")


@pytest.fixture(scope="module")
def store(path):
    with mmxai.open_store(path) as opened:
        yield opened


def fvu(sae, x):
    return float((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum())


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


@pytest.mark.parametrize(
    ("arch", "options", "most", "few"),
    [
        ("topk", {}, 0.2, (ACTIVE, ACTIVE)),
        ("batchtopk", {}, 0.25, (ACTIVE - 0.4, ACTIVE + 0.4)),
        ("matryoshka", {"prefixes": (16, 64)}, 0.35, (ACTIVE - 0.4, ACTIVE + 0.4)),
        ("relu", {"penalty": 0.25}, 0.3, (ACTIVE, 14)),  # its penalty aims at no number
        ("jumprelu", {"target_l0": 4.0, "bandwidth": 0.05}, 0.25, (3.5, 4.5)),
    ],
)
def test_each_architecture_learns(store, arch, options, most, few):
    (sae,) = train_sae(store, arch=arch, **{**SMALL, **options, "epochs": 10.0})
    x, _ = planted(500, seed=7)  # rows never seen
    assert fvu(sae, x) < most
    assert sae.W_dec.norm(dim=1).sub(1).abs().max() < 1e-4
    l0 = float((sae.encode_dense(x) > 0).sum(1).float().mean())
    assert few[0] <= l0 <= few[1]


def test_transcoder_and_crosscoder(store):
    options = {**SMALL, "epochs": 6.0}
    (coder,) = train_sae(store, sites_out=("t.1.x",), skip=True, **options)
    site = store["t.0.x"][:400], store["t.1.x"][:400]
    away = (coder(site[0]) - site[1]).square().sum() / (site[1] - site[1].mean(0)).square().sum()
    assert coder.spec.kind == "transcoder" and away < 0.4
    (joined,) = train_sae(store, crosscoder=True, sites_out=("t.*.x",), **SMALL)
    assert joined.spec.widths_in == (24,) and joined.spec.widths_out == (24, 16)
    (both,) = train_sae(store, crosscoder=True, **{**options, "sites": ("t.*.x",)})
    assert both.spec.sites_in == ("t.0.x", "t.1.x") and both.spec.width_in == 40
    assert fvu(both, torch.cat(site, 1)) < 0.5


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu"])
def test_killed_and_resumed_is_the_same_to_the_last_digit(store, tmp_path, monkeypatch, arch):
    options = {**SMALL, "arch": arch, "dead_after": 300}
    whole = train_sae(store, out=tmp_path / "whole", **options)[0]
    step = Trainee.step
    for stop in (9, 15):

        def dying(self, x, target, number, workspace, stop=stop):
            if number == stop:
                raise RuntimeError("killed")
            return step(self, x, target, number, workspace)

        monkeypatch.setattr(Trainee, "step", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train_sae(store, out=tmp_path / "cut", **options)
    monkeypatch.setattr(Trainee, "step", step)
    resumed = train_sae(store, out=tmp_path / "cut", **options)[0]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert lines(tmp_path / "cut/t.0.x") == lines(tmp_path / "whole/t.0.x")
    assert load_sae(tmp_path / "cut/t.0.x").spec == whole.spec
    again = train_sae(store, out=tmp_path / "cut", **options)[0]  # has ended: nothing to do
    assert torch.equal(again.W_dec, whole.W_dec)


def test_a_stop_signal_saves(store, tmp_path, monkeypatch):
    import os
    import signal

    step = Trainee.step

    def signalled(self, x, target, number, workspace):
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, target, number, workspace)

    monkeypatch.setattr(Trainee, "step", signalled)
    with pytest.raises(KeyboardInterrupt, match="step 5"):
        train_sae(store, out=tmp_path, **SMALL)
    assert training.checkpoint.read(tmp_path / "runs/t.0.x.safetensors")["step"] == 5


def test_a_sweep_shares_every_batch_and_equals_single_runs(store, tmp_path):
    configs = [TrainConfig(**{**SMALL, "k": k, "latents": m}) for k in (2, 4) for m in (32, 64)]
    together = train_sae(store, configs, out=tmp_path)
    assert [(s.spec.k, s.spec.latents) for s in together] == [(2, 32), (2, 64), (4, 32), (4, 64)]
    (alone,) = train_sae(store, configs[2])
    assert torch.equal(alone.W_enc, together[2].W_enc)
    assert load_sae(tmp_path / "t.0.x/latents32-k4").spec.k == 4
    with pytest.raises(ArgumentError, match="differ in"):
        train_sae(store, [configs[0], TrainConfig(**{**SMALL, "batch": 64})])


def test_sites_are_shared_out(store, tmp_path):
    options = {**SMALL, "sites": ("t.*.x",)}
    both = train_sae(store, **options)
    assert [s.spec.sites_in for s in both] == [("t.0.x",), ("t.1.x",)]
    (second,) = train_sae(store, part_of="1/2", **options)
    assert torch.equal(second.W_dec, both[1].W_dec)
    side_by_side = train_sae(store, at_once=2, **options)
    assert torch.equal(side_by_side[1].W_dec, both[1].W_dec)


def test_held_out_samples_are_not_seen(store, monkeypatch):
    seen = set()
    step = training._Run._step

    def noting(self, batch, *rest):
        seen.update(batch.rows.sample.tolist())
        assert set(batch.rows.token_type.tolist()) == {1}
        return step(self, batch, *rest)

    monkeypatch.setattr(training._Run, "_step", noting)
    train_sae(store, tokens="patch", **SMALL)
    held = set()
    for batch in store["t.0.x"].batches(256, split="val"):
        held.update(batch.rows.sample.tolist())
    assert seen and held and not seen & held


def test_dead_latents_are_revived(store, monkeypatch):
    """Most latents begin with a bias that keeps them from any row's k largest."""
    begin = training.init.begin

    def sunk(*args):
        beginning = begin(*args)
        beginning.sae.b_enc[16:] = -0.5 * beginning.sae.W_enc[0].norm()
        return beginning

    monkeypatch.setattr(training.init, "begin", sunk)
    options = {**SMALL, "epochs": 6.0, "dead_after": 600, "aux_k": 8}
    (helped,) = train_sae(store, **options)
    (left,) = train_sae(store, aux=0.0, **options)
    x = store["t.0.x"][:2000]
    dead = [int(((s.encode_dense(x) > 0).sum(0) == 0).sum()) for s in (helped, left)]
    assert dead[0] < 10 < dead[1]
    assert fvu(helped, x) < fvu(left, x)


@pytest.mark.parametrize(
    ("latents", "k", "rows", "after"),
    [
        (2048, 32, 1_000_000, 50_000),  # a twentieth
        (2048, 32, 20_000, 6_400),  # a hundred times 2048 / 32
        (2048, None, 20_000, 6_400),
        (131_072, 64, 1 << 40, 10_000_000),
    ],
)
def test_when_a_latent_is_dead(latents, k, rows, after):
    assert trainee_module._dead_after(latents, k, rows) == after


def test_a_frozen_decoder_stays(store):
    (sae,) = train_sae(store, frozen="decoder", **SMALL)
    draw = torch.Generator().manual_seed(0)
    first = torch.nn.functional.normalize(torch.randn(64, 24, generator=draw), dim=1)
    torch.testing.assert_close(sae.W_dec, first)


def test_normalisation_is_kept_with_the_sae(store):
    (sae,) = train_sae(store, **SMALL)
    x = store["t.0.x"][:]
    spread = float((x - x.mean(0)).square().sum(1).mean())
    assert sae.spec.scale[0] == pytest.approx(spread**-0.5, rel=0.05)
    assert sae.spec.scale_out == sae.spec.scale
    assert sae.spec.identity["train"]["config"]["split"] == "train"
    assert sae.spec.identity["train"]["rows"] == sae.spec.identity["train"]["steps"] * 128
    (plain,) = train_sae(store, normalise="none", **SMALL)
    assert plain.spec.scale == (1.0,) and fvu(plain, x) < 0.9


def test_bfloat16_product(store):
    (sae,) = train_sae(store, product="bfloat16", **{**SMALL, "epochs": 10.0})
    assert sae.dtype == torch.float32
    assert fvu(sae, planted(500, seed=7)[0]) < 0.35


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 65}, ArgumentError, "k = 65 of 64"),
        ({"sites": ("t.7.x",)}, UnknownSiteError, r"t\.7\.x"),
        ({"tokens": "register"}, SelectionError, "no row is left"),
        ({"tokens": "patches"}, SelectionError, "patches"),
        ({"batch": 100_000}, ArgumentError, "fewer rows"),
        ({"skip": True}, ArgumentError, "transcoder"),
        ({"latent": 3}, ArgumentError, "latent"),
        ({"lr": -1.0}, ArgumentError, "positive"),
        ({"lr": float("inf")}, ArgumentError, "positive"),
        ({"lr": float("nan")}, ArgumentError, "positive"),
        ({"k": "many"}, ArgumentError, "k = 'many', expected a whole number or none"),
        ({"k": 2.5}, ArgumentError, "k = 2.5, expected a whole number"),
        ({"batch": True}, ArgumentError, "batch = True, expected a whole number"),
        ({"skip": 1}, ArgumentError, "expected true or false"),
        ({"decay": None}, ArgumentError, "decay = None, expected a number"),
        ({"prefixes": 8}, ArgumentError, "expected a tuple of which each is a whole number"),
        ({"prefixes": (8.0, 64)}, ArgumentError, "expected a tuple"),
        ({"sites": None}, ArgumentError, "each is text"),
        ({"beta2": 1.0}, ArgumentError, "below 1"),
        ({"warmup": -1}, ArgumentError, "0 or more"),
        ({"center": "median"}, ArgumentError, "expected one of mean, geometric_median, zero"),
        ({"normalise": "layer"}, ArgumentError, "expected one of variance, none"),
        ({"arch": "topk2"}, ArgumentError, "batchtopk"),
        ({"window": "all"}, ArgumentError, "expected a whole number or auto or none"),
        ({"device": "gpu"}, ArgumentError, "device 'gpu'"),
        ({"track": ("mlflow",)}, ArgumentError, "mlflow"),
        ({"sites_out": ("t.*.x",)}, ArgumentError, "one of each"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(store, tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        train_sae(store, out=tmp_path, **{**SMALL, **options})
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_site_without_rows_is_named_before_another_is_trained(tmp_path):
    """`a` has patches, `b` none: nothing is trained, though `a` would come first."""
    rows = {"a": Rows.make(sample=torch.arange(600), token_type=1), "b": Rows.make(sample=torch.arange(600))}
    x = torch.randn(600, 8)
    with mmxai.create_store(
        tmp_path / "two.zarr", sites={"a.0.x": 8, "b.0.x": 8}, space={"a.0.x": "a", "b.0.x": "b"}
    ) as w:
        w.write(range(600), {"a.0.x": x, "b.0.x": x}, rows=rows)
    options = {**SMALL, "sites": ("*.x",), "latents": 16, "tokens": "patch", "out": tmp_path / "out"}
    with pytest.raises(SelectionError, match="no row is left"):
        train_sae(tmp_path / "two.zarr", **options)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_two_processes_do_not_train_the_same(store, tmp_path):
    lock = training.checkpoint.held(tmp_path / "runs/t.0.x.safetensors")
    with lock, pytest.raises(CheckpointError, match="another process"):
        train_sae(store, out=tmp_path, **SMALL)
    assert train_sae(store, out=tmp_path, **SMALL)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_site_that_another_trains_is_named_before_any_is_trained(store, tmp_path, at_once):
    lock = training.checkpoint.held(tmp_path / "runs/t.1.x.safetensors")
    options = {**SMALL, "sites": ("t.*.x",), "at_once": at_once}
    with lock, pytest.raises(CheckpointError, match="another process"):
        train_sae(store, out=tmp_path, **options)
    assert not (tmp_path / "t.0.x").exists()
    assert len(train_sae(store, out=tmp_path, **options)) == 2


def test_sites_trained_side_by_side_are_not_trained_anew_apart(store, tmp_path):
    options = {**SMALL, "sites": ("t.*.x",), "out": tmp_path}
    train_sae(store, at_once=2, **options)
    kept = (tmp_path / "t.1.x/sae.safetensors").read_bytes()
    for other in ({"at_once": 1}, {"at_once": 2, "sites": ("t.1.x",)}):
        with pytest.raises(CheckpointError, match=r"t\.\d\.x trained in this run.*at-once"):
            train_sae(store, **{**options, **other, "seed": 1})
    assert (tmp_path / "t.1.x/sae.safetensors").read_bytes() == kept
    assert len(train_sae(store, at_once=2, **options)) == 2  # has ended, goes on as it was


def test_site_by_site_in_bounded_memory(store, tmp_path, monkeypatch):
    made = []

    class Noted(training.Workspace):
        def __init__(self):
            assert not any(one() for one in made), "the last run's buffers are still held"
            super().__init__()
            made.append(weakref.ref(self))

    monkeypatch.setattr(training, "Workspace", Noted)
    each = training.train_each(store, out=tmp_path, **{**SMALL, "sites": ("t.*.x",)})
    place, (first,) = next(each)
    assert place == 0 and first.spec.sites_in == ("t.0.x",) and not (tmp_path / "t.1.x").exists()
    gone = weakref.ref(first)
    del first
    place, (second,) = next(each)
    assert place == 1 and second.spec.sites_in == ("t.1.x",) and gone() is None and len(made) == 2
    assert not list(each)


def test_a_loss_that_is_none_leaves_the_last_checkpoint(store, tmp_path, monkeypatch):
    step = Trainee.step

    def diverging(self, x, target, number, workspace):
        return step(self, x * float("inf") if number == 9 else x, target, number, workspace)

    monkeypatch.setattr(Trainee, "step", diverging)
    with pytest.raises(NonFiniteError, match="step 9"):
        train_sae(store, out=tmp_path, **SMALL)
    assert training.checkpoint.read(tmp_path / "runs/t.0.x.safetensors")["step"] == 7


def test_stopped_between_two_sites(store, tmp_path, monkeypatch):
    """A signal in the last step of one site is not lost: the next is not begun."""
    import os
    import signal

    step = Trainee.step

    def signalled(self, x, target, number, workspace):
        if number == self.schedule.steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, target, number, workspace)

    monkeypatch.setattr(Trainee, "step", signalled)
    with pytest.raises(KeyboardInterrupt, match=r"t\.0\.x"):
        train_sae(store, out=tmp_path, **{**SMALL, "sites": ("t.*.x",)})
    assert (tmp_path / "t.0.x/sae.json").exists() and not (tmp_path / "t.1.x").exists()


def test_nan_rows_stop_with_the_work_saved(tmp_path):
    make_store(tmp_path / "bad.zarr", samples=200, spoil=700)
    with mmxai.open_store(tmp_path / "bad.zarr") as bad:
        options = {**SMALL, "split": None, "init_rows": 128, "epochs": 3.0}
        with pytest.raises(NonFiniteError, match=r"sample 87, position 4"):
            train_sae(bad, out=tmp_path / "out", **options)
    saved = training.checkpoint.read(tmp_path / "out/runs/t.0.x.safetensors")
    assert saved["step"] == saved["feed"]["position"] // 128 > 0


def test_another_config_does_not_go_on(store, tmp_path):
    train_sae(store, out=tmp_path, **SMALL)
    with pytest.raises(CheckpointError, match=r"k: was 3, now 4"):
        train_sae(store, out=tmp_path, **{**SMALL, "k": 4})
    (tmp_path / "runs/t.0.x.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train_sae(store, out=tmp_path, **SMALL)
