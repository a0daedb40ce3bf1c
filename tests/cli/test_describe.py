"""`mmxai describe` from the command line: what it writes, and what it refuses."""

import json

import pandas
import pytest

from mmxai.cli import main
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from tests.harvesting.conftest import save_tiny_clip

SITE = "vision.1.mlp_post"
OPTIONS = ["--top", "10", "--null", "100", "--draws", "2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("describe")
    save_tiny_clip(home / "clip")
    export_folder(ShapesWorld(80, seed=1, size=32), home / "world")
    (home / "words.txt").write_text("red\nblue\ncircle\nstar\nlarge\nsmall\n")
    args = ["harvest", f"{home}/clip", f"{home}/world/images", "--store", f"{home}/acts.zarr", "--sites"]
    assert main([*args, SITE, "vision.embeds", "vision.0.resid_post"]) == 0
    return home


def test_describe(home, capsys):
    args = ["describe", f"{home}/acts.zarr", "--words", f"{home}/words.txt", "--judge", f"{home}/clip"]
    args += ["--data", f"{home}/world/images", "--out", f"{home}/out", *OPTIONS]
    with pytest.warns(UserWarning, match="under study"):
        assert main([*args, "--sites", "*"]) == 0
    shown = capsys.readouterr().out
    assert "note: the judge is the model under study" in shown and "falls_missing" in shown
    found = json.loads((home / "out/describe.json").read_text())
    assert list(found["sites"]) == ["vision.0.resid_post", SITE, "vision.embeds"]
    assert found["about"]["words"] == 6 and found["config"]["top"] == 10
    table = pandas.read_csv(home / "out/descriptions.csv", keep_default_na=False)
    assert table.columns[:4].tolist() == ["layer", "unit", "description", "similarity"]
    units = found["sites"][SITE]["units"]
    own = table[table.layer == SITE]
    assert own.description.tolist() == [(u["words"] or [""])[0] for u in units]
    page = (home / f"out/pages/layers/{SITE}.html").read_text()
    assert page.count("<article") == len(units) and f"pages: {len(table):,} units" in shown
    assert list((home / "out/pages/pictures").glob("*.webp"))
    before = (home / "out/describe.json").read_bytes()
    with pytest.warns(UserWarning, match="under study"):
        assert main([*args, "--sites", "*", "--no-images"]) == 0
    assert (home / "out/describe.json").read_bytes() == before
    assert "<img" not in (home / f"out/pages/layers/{SITE}.html").read_text()
    assert "pictures 0 to" not in capsys.readouterr().out  # the judge has seen them


@pytest.mark.parametrize(
    "args, said",
    [
        (["--judge", "{home}/clip"], "got no --data"),
        (["--judge", "{home}/clip", "--data", "{home}/world/images", "--sites", "vision.9.z"], "no site"),
        (["--judge", "{home}/clip", "--data", "{home}/words.txt"], "samples"),
        (["--judge", "{home}/clip", "--data", "{home}/world/images", "--template", "x"], "template"),
        (["--judge", "{home}/nowhere", "--data", "{home}/world/images"], "nowhere"),
    ],
)
def test_refuses(home, capsys, args, said):
    args = [a.format(home=home) for a in args]
    words = ["--words", f"{home}/words.txt", "--out", f"{home}/none"]
    assert main(["describe", f"{home}/acts.zarr", *words, *args, *OPTIONS]) == 1
    assert said in capsys.readouterr().err and not (home / "none/describe.json").exists()
