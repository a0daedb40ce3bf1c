"""`mmxai dissect` from the command line: what it writes, that it goes on, and what it refuses."""

import json

import pandas
import pytest

from mmxai.cli import main
from mmxai.methods.dissect.tables import read_published
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from tests.harvesting.conftest import save_tiny_clip

SITES = ("vision.0.mlp_post", "vision.1.resid_post")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("dissect")
    save_tiny_clip(home / "clip")
    export_folder(ShapesWorld(120, seed=1, size=32), home / "world")
    args = ["harvest", f"{home}/clip", f"{home}/world/images", "--store", f"{home}/acts.zarr", "--sites"]
    assert main([*args, *SITES, "vision.embeds"]) == 0
    return home


def test_dissect(home, capsys):
    args = ["dissect", f"{home}/acts.zarr", "--concepts", f"{home}/world", "--out", f"{home}/out"]
    args += ["--sites", "*", "--quantile", "0.05", "--held-out", "0.3", "--bootstrap", "20"]
    assert main(args) == 0
    shown = capsys.readouterr().out
    found = json.loads((home / "out/dissect.json").read_text())
    assert set(found["sites"]) == set(SITES) and "rotated" in shown and "shuffled" in shown
    table = read_published(home / f"out/{SITES[0]}.csv")
    assert table.categories == ["shape", "colour", "fill", "background"]
    layers = pandas.read_csv(home / "out/layers.csv")
    assert layers.site.tolist() == list(SITES)
    assert layers.detectors.tolist() == [found["sites"][s]["detectors"] for s in SITES]
    before = (home / "out/dissect.json").read_bytes()
    assert main(args) == 0 and (home / "out/dissect.json").read_bytes() == before
    assert "pictures, row" not in capsys.readouterr().out  # nothing was counted again


def test_pages(home, capsys):
    args = ["dissect", f"{home}/acts.zarr", "--concepts", f"{home}/world", "--out", f"{home}/out2"]
    args += ["--sites", SITES[0], "--quantile", "0.05", "--bootstrap", "0", "--controls", "shuffled"]
    assert main([*args, "--data", f"{home}/world/images"]) == 0
    shown = capsys.readouterr().out
    assert f"{home}/out2/pages/index.html" in shown and "MB for 32,768 units" in shown
    assert list((home / "out2/pages/pictures").glob("*.webp"))
    table = (home / f"out2/pages/tables/{SITES[0]}.csv").read_text().splitlines()
    assert table[0] == (home / f"out2/{SITES[0]}.csv").read_text().splitlines()[0]
    assert main([*args, "--publish", f"{home}/public", "--no-images"]) == 0
    assert (home / "public/index.html").is_file() and not list((home / "public").rglob("*.webp"))
    assert not (home / "public/dissect.json").exists() and "no pictures" in capsys.readouterr().out
    (home / "mine").mkdir()
    (home / "mine/thesis.tex").write_text("mine")
    assert main([*args, "--publish", f"{home}/mine"]) == 1
    assert "holds other things" in capsys.readouterr().err and len(list((home / "mine").iterdir())) == 1


def test_forms_and_learned_thresholds(home, capsys):
    args = ["dissect", f"{home}/acts.zarr", "--concepts", f"{home}/world", "--out", f"{home}/forms"]
    args += ["--sites", SITES[0], "--rule", "f1", "--held-out", "0.3", "--compose", "3", "--no-images"]
    assert main(args) == 0
    assert "best F1" in (shown := capsys.readouterr().out) and "logical forms, on" in shown
    made = json.loads((home / "forms/dissect.json").read_text())["sites"][SITES[0]]
    forms, table = made["forms"], pandas.read_csv(home / f"forms/{SITES[0]}.csv", keep_default_na=False)
    assert table.form.tolist() == forms["form"] and any(" AND NOT " in form for form in forms["form"])
    assert len(made["auprc"]) == len(forms["form"]) == len(made["threshold"])


@pytest.mark.parametrize(
    "args, said",
    [
        (["--concepts", "nowhere"], "nowhere"),
        (["--concepts", "shapes"], "not harvested from the shapes world"),
        (["--concepts", "{home}/world", "--sites", "vision.7.z"], "no site"),
        (["--concepts", "{home}/world", "--sites", "*.embeds"], "none of whose rows are cells"),
        (["--concepts", "{home}/world", "--norm-site", "text.0.resid_post", "--high-norm", "2"], "nearest"),
    ],
)
def test_refuses(home, capsys, args, said):
    args = [a.format(home=home) for a in args]
    assert main(["dissect", f"{home}/acts.zarr", "--out", f"{home}/none", *args]) == 1
    assert said in capsys.readouterr().err and not (home / "none/dissect.json").exists()
