"""`mmxai probe` from the command line: what it writes, and what it refuses."""

import json

import pytest

from mmxai.cli import main
from mmxai.methods.probe import load_directions
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from tests.harvesting.conftest import save_tiny_clip
from tests.methods.probe.stores import A, B, make, write_labels


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("probe")
    make(home / "acts.zarr", 300)
    write_labels(home / "l.csv", 300)
    return home


def test_probe(home, capsys):
    args = ["probe", f"{home}/acts.zarr", "--labels", f"{home}/l.csv", "--multilabel", "labels"]
    args += ["--regression", "number", "--out", f"{home}/out", "--bootstrap", "100"]
    assert main([*args, "--sites", "vision.*.resid_post"]) == 0
    shown = capsys.readouterr().out
    assert "class: best at vision.0.resid_post" in shown and f"{home}/out/index.html" in shown
    found = json.loads((home / "out/probe.json").read_text())
    assert {s["site"] for s in found["scores"]} == {A, B}
    assert {s["task"] for s in found["scores"]} == {"class", "labels", "number"}
    assert found["scores"][0]["codelength"]["uniform"] == 2
    assert load_directions(home / "out/probe.safetensors")[A, "class"].coef.shape == (4, 16)
    assert "Probes of acts.zarr" in (home / "out/index.html").read_text()
    # Again, otherwise: everything is of the second run.
    again = ["--sites", A, "--tasks", "class", "--no-mdl", "--bootstrap", "0"]
    assert main([*args, *again, "--erase"]) == 0 and (home / "out/probe.erasers.safetensors").is_file()
    capsys.readouterr()
    assert main([*args, *again]) == 0
    shown, page = capsys.readouterr().out, (home / "out/index.html").read_text()
    assert len(load_directions(home / "out/probe.safetensors")) == 1 and "nan" not in shown + page
    assert {p.name for p in (home / "out").iterdir()} == {"index.html", "probe.json", "probe.safetensors"}


@pytest.mark.parametrize(
    "args, said",
    [
        (["--labels", "nowhere.csv"], "no such file"),
        (["--labels", "shapes"], "not harvested from the shapes world"),
        (["--labels", "{home}/l.csv", "--tasks", "colour"], "expected one of"),
        (["--labels", "{home}/l.csv", "--sites", "vision.7.z"], "no site"),
        (["--labels", "{home}/l.csv", "--regression", "class"], "expected a finite number"),
        (["--labels", "{home}/l.csv", "--pool", "cls", "--sites", "text.0.resid_post"], "no row is left"),
        (["--labels", "{home}/l.csv", "--out", "{home}/l.csv/probe"], "expected a folder"),
    ],
)
def test_refuses(home, capsys, args, said):
    args = [a.format(home=home) for a in args]
    assert main(["probe", f"{home}/acts.zarr", "--multilabel", "labels", "--out", f"{home}/none", *args]) == 1
    assert said in capsys.readouterr().err and not (home / "none").exists()


def test_the_world_of_a_folder(tmp_path, capsys):
    save_tiny_clip(tmp_path / "clip")
    export_folder(ShapesWorld(200, seed=1, size=32), tmp_path / "world")
    store = f"{tmp_path}/acts.zarr"
    site = "vision.1.resid_post"
    assert main(
        ["harvest", f"{tmp_path}/clip", f"{tmp_path}/world/images", "--sites", site, "--store", store]
    ) == 0  # fmt: skip
    args = ["probe", store, "--labels", f"{tmp_path}/world", "--out", f"{tmp_path}/out", "--bootstrap", "20"]
    assert main([*args, "--overlap", "0.25", "--tasks", "colour", "fill"]) == 0
    shown = capsys.readouterr().out
    assert "at least 25% of them" in shown and "facts of ShapesWorld(200 pictures, seed 1" in shown
    found = json.loads((tmp_path / "out/probe.json").read_text())
    assert [s["task"] for s in found["scores"]] == ["colour", "fill"]
    assert main([*args, "--labels", "shapes"]) == 1  # pictures of a folder: the plan does not name the world
