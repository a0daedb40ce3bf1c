"""`mmxai decompose path` from the command line: what it writes, a second run, and what it refuses."""

import json

import pandas
import pytest

from mmxai.cli import main
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from tests.harvesting.conftest import save_tiny_clip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("path")
    save_tiny_clip(home / "clip")
    export_folder(ShapesWorld(40, seed=1, size=32), home / "world")
    return home


def look(home, *args):
    return main(["decompose", "path", f"{home}/clip", f"{home}/world/images", *map(str, args)])


def test_pictures(home, tmp_path, capsys):
    args = ["--out", tmp_path / "out", "--texts", "a red circle", "a blue circle", "--check", 4]
    args += ["--labels", home / "world", "--task", "colour", "--template", "a {} object", "--draws", 2]
    assert look(home, *args, "--live", 6, "--live-draws", 1, "--ablate", "vision.1.z.*", "*.mlp_post") == 0
    shown = capsys.readouterr().out
    assert "in 4 samples" in shown and "direct path: " in shown and "whole model: " in shown
    assert f"written to {tmp_path}/out/index.html" in shown
    found = json.loads((tmp_path / "out/contributions.json").read_text())
    assert found["rows"] == 40 and found["compared"] == 4 and found["error"] < 1e-4
    assert found["targets"] == ["a red circle", "a blue circle", "a red circle less a blue circle"]
    table = pandas.read_csv(tmp_path / "out/contributions.csv")
    less = table["a red circle"] - table["a blue circle"] - table["a red circle less a blue circle"]
    assert less.abs().max() < 1e-5 and table["share"].sum() == pytest.approx(1, abs=1e-4)
    assert len(pandas.read_csv(tmp_path / "out/neurons.csv")) == 2 * 64
    whole = json.loads((tmp_path / "out/ablation_whole_model.json").read_text())
    assert whole["rows"] == 6 and whole["names"] == ["vision.1.z.*", "*.mlp_post"]
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<option") == 4 and "whole model: replaced" in page
    # A second run reads the store that is there.
    assert look(home, "--out", tmp_path / "out") == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert not [*(tmp_path / "out").glob("ablation_*")]  # of other targets


def test_a_language_model(shared_data, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("Once upon a time\nThe dog\n")
    args = ["decompose", "path", f"{shared_data}/stories260K", f"{tmp_path}/p.txt", "--out"]
    assert main([*args, f"{tmp_path}/out", "--tokens", "he", "she"]) == 0
    assert "he less she" in capsys.readouterr().out
    assert main([*args, f"{tmp_path}/out"]) == 0
    assert "the token said next" in capsys.readouterr().out
    assert main([*args, f"{tmp_path}/none", "--tokens", "unbelievable"]) == 1
    assert "'unbelievable' is [" in capsys.readouterr().err
    assert main([*args, f"{tmp_path}/none", "--texts", "a"]) == 1
    assert "expected a CLIP" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--tower", "audio"], "got tower 'audio'"),
        (["--tower", "text", "--texts", "a"], "its vision tower"),
        (["--tokens", "a"], "no tokenizer or no logits"),
        (["--texts", "a", "--tokens", "a"], "expected one of them"),
        (["--labels", "nowhere.csv"], "no such file"),
        (["--task", "colour", "--live", "5"], "--task, --live without --labels"),
        (["--labels", "{home}/world", "--template", "an object"], "where the class's name goes"),
        (["--labels", "{home}/world", "--live", "-1"], "--live: got -1, expected at least 0"),
        (["--labels", "{home}/world", "--live-draws", "0"], "--live-draws: got 0"),
        (["--check", "0"], "--check: got 0, expected at least 1"),
        (["--labels", "{home}/world", "--ablate", "vision.7.*"], "matches no term"),
    ],
)
def test_refuses_before_it_harvests(home, tmp_path, capsys, args, said):
    args = [a.replace("{home}", str(home)) for a in args]
    assert look(home, "--out", tmp_path / "none", *args) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_which_task(home, tmp_path, capsys):
    assert look(home, "--out", tmp_path, "--labels", home / "world") == 1
    assert "tasks of samples: shape, colour" in capsys.readouterr().err
