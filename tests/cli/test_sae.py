"""`mmxai sae`: its parts, and training from the command line."""

import json

import pytest

from mmxai.cli import main
from mmxai.errors import ArgumentError
from mmxai.methods.sae.config import TrainConfig, sweep, variants
from tests.methods.sae.stores import make_store


def test_parts_are_listed(capsys):
    assert main(["sae", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("train", "eval", "encode", "show", "convert"))
    assert main(["sae"]) == 2 and main(["sae", "trian"]) == 2


def test_train(tmp_path, capsys):
    make_store(tmp_path / "acts.zarr", samples=200)
    args = [
        "sae", "train", str(tmp_path / "acts.zarr"), "--sites", "t.0.x", "--latents", "32", "--batch", "128",
        "--sweep", "k=2,4", "--out", str(tmp_path / "out"), "--epochs", "2", "--log-every", "5",
    ]  # fmt: skip
    assert main(args) == 0
    assert "2 in" in capsys.readouterr().out
    lines = (tmp_path / "out/t.0.x/k4/metrics.jsonl").read_text().splitlines()
    assert {"step", "rows", "loss", "fvu", "l0", "dead", "lr"} <= set(json.loads(lines[-1]))
    assert main([*args[:-1], "3"]) == 0  # has ended: says the same
    assert main([*args[:2], "--sites", "t.0.x"]) == 1
    assert "expected one of them" in capsys.readouterr().err
    assert main([*args[:3], "--sites", "t.9.x"]) == 1


def test_sweeps():
    configs = sweep(TrainConfig(), ("k=16,32", "lr=1e-3,none"))
    assert [(c.k, c.lr) for c in configs] == [(16, 1e-3), (16, None), (32, 1e-3), (32, None)]
    assert variants(configs)[0] == "k16-lr0.001"
    assert sweep(TrainConfig(), ()) == [TrainConfig()] and variants([TrainConfig()]) == [""]
    for axis in ("k", "depth=3", "batch=1,2"):
        with pytest.raises(ArgumentError, match="expected NAME"):
            sweep(TrainConfig(), (axis,))
    for axis in ("k=2.5", "decay=none", "prefixes=8", "frozen=some"):
        with pytest.raises(ArgumentError, match="sae train: got"):
            sweep(TrainConfig(), (axis,))
    assert [c.normalise for c in sweep(TrainConfig(), ("normalise=none,variance",))] == ["none", "variance"]
    with pytest.raises(ArgumentError, match="same twice"):
        variants([TrainConfig(), TrainConfig()])
