"""`mmxai trace` from the command line: what it writes of each kind of model, what it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas
import pytest
from PIL import Image

from mmxai.cli import main
from mmxai.shapes import ShapesWorld
from mmxai.shapes.llava_model import new_llava, save_llava
from tests.harvesting.conftest import save_tiny_clip

PROMPT = "Once upon a time there was a girl named Lily. She"
ASKED = "what colour is it ?"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("trace")
    save_tiny_clip(home / "clip")
    save_llava(new_llava(blocks=2, width=64), home / "llava")
    world = ShapesWorld(20, seed=3, split="test")
    world[0].pil.save(home / "a.png")
    world[1].pil.save(home / "b.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20:44] = 255
    Image.fromarray(mask).save(home / "mask.png")
    return home


def look(*args):
    return main(["trace", *map(str, args)])


def test_a_picture_and_a_question(home, tmp_path, capsys):
    args = [home / "llava", home / "a.png", ASKED, "--answer", "red", "--foil", "blue", "--grid", 2]
    args += ["--box", 20, 10, 44, 30, "--out", tmp_path / "o"]
    for _ in range(2):  # a second run writes over the first
        assert look(*args) == 0
        shown = capsys.readouterr().out
        assert "interventions, all run: about" in shown and f"written to {tmp_path}/o/index.html" in shown
        assert "the region filled with the rest's mean colour" in shown
    found = json.loads((tmp_path / "o/trace.json").read_text())
    assert found["size"] == [64, 64] and found["samples"] == 1
    table = pandas.read_csv(tmp_path / "o/trace.csv")
    assert set(table["tower"]) == {"text", "vision"} and not table["estimated"].any()
    page = (tmp_path / "o/index.html").read_text()
    assert "Hase et al. 2023" in page and "corrupted picture" in page and "[object]" in page


def test_most_are_estimated_where_there_are_many(home, tmp_path, capsys, monkeypatch):
    args = [home / "llava", home / "a.png", ASKED, "--answer", "red", "--grid", 4]
    args += ["--mask", home / "mask.png"]
    assert look(*args, "--corrupt", "drop", "--best", 20, "--out", tmp_path / "few") == 0
    assert "all run" in capsys.readouterr().out  # 2 blocks: there are few
    args += ["--corrupt", home / "b.png", "--best", 20, "--out", tmp_path / "many"]
    monkeypatch.setattr("mmxai.methods.trace.prefilter.DEFAULT_ABOVE", 100)
    assert look(*args) == 0
    shown = capsys.readouterr().out
    assert "20 run, the others estimated (--exact runs all)" in shown
    assert pandas.read_csv(tmp_path / "many/trace.csv")["estimated"].sum() > 100
    assert "are estimates of attribution patching" in (tmp_path / "many/index.html").read_text()


def test_clip(home, tmp_path, capsys):
    args = [home / "clip", home / "a.png", "--texts", "a red circle", "a blue circle"]
    assert look(*args, "--other", home / "b.png", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "b.png instead: cosine with 'a red circle' less that with 'a blue circle'" in shown
    towers = {m["tower"] for m in json.loads((tmp_path / "trace.json").read_text())["maps"]}
    assert towers == {"vision", "text"}


def test_a_language_model(shared_data, tmp_path, capsys):
    model = shared_data / "stories260K"
    args = [model, PROMPT, "--answer", "saw", "--foil", "was", "--out", tmp_path]
    assert look(*args, "--subject", "Lily", "--draws", 3) == 0
    first = capsys.readouterr().out
    assert "Gaussian noise at 3 sigma on 'Lily', 3 draws" in first
    for _ in range(2):  # what was kept is not run again, and is the same
        assert look(*args, "--subject", "Lily", "--draws", 3, "--keep", tmp_path / "kept") == 0
        assert capsys.readouterr().out.split("largest of")[1] == first.split("largest of")[1]
    assert [*(tmp_path / "kept/0").glob("values-*")]
    assert "bootstrap interval over the corrupted runs" in (tmp_path / "index.html").read_text()
    assert look(*args, "--counterfactual", PROMPT.replace("Lily", "Tim")) == 0
    assert "named Tim. She' instead" in capsys.readouterr().out
    # An answer of several tokens is scored whole.
    args[3] = "walked away"
    assert look(*args, "--subject", "Lily", "--draws", 2) == 0
    assert "log-probability difference" in capsys.readouterr().out
    assert look(*args, "--counterfactual", "Once upon") == 1
    assert "expected " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{llava}", "{home}/a.png", ASKED], "no --answer"),
        (["{llava}", "{home}/a.png", "--answer", "red"], "expected a question behind it"),
        (["{llava}", "{home}/A.png", ASKED, "--answer", "red"], "did you mean a.png?"),
        (["{llava}", "{home}/a.png", "what", "colour", "--answer", "red"], "in quotes"),
        (["{llava}", "{home}/a.png", " ", "--answer", "red"], "expected words"),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "rde"], "not in the model's vocabulary"),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--box", "0", "0", "90", "9"], "x1 <= 64"),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--corrupt", "blurr"], "did you mean blur?"),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--mask", "{home}/no.png"], "--mask: got"),
        (
            ["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--subject", "it"],
            "--subject with a picture",
        ),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--sigma", "0"], "above 0"),
        (["{llava}", "{home}/a.png", ASKED, "--answer", "red", "--best", "0"], "at least 1 of each"),
        (["{llava}", "{home}/mask.png", "--texts", "a"], "expected a CLIP"),
        (["{home}/clip", "{home}/a.png", ASKED, "--answer", "red"], "of a CLIP give --texts"),
        (["{home}/clip", "{home}/a.png", "--texts", "a", "--answer", "red"], "--answer with --texts"),
        (["{home}/clip", "--texts", "a"], "expected one picture"),
        (["{llava}", "a prompt", "--answer", "red"], "neither --subject nor --counterfactual"),
        (["{llava}", "a prompt", "--answer", "red", "--box", "0", "0", "9", "9"], "--box with a prompt"),
        (["{llava}", "a prompt", "--facts", "{home}/f.json"], "prompts are in the file"),
        (["{llava}", "--facts", "{home}/f.json", "--answer", "red"], "--answer with --facts"),
        (["{llava}", "--facts", "{home}/f.json"], "f.json"),
        (["{llava}", "a prompt", "--answer", "red", "--limit", "3"], "--limit without --facts"),
        (["{home}/none", "a prompt", "--answer", "red"], "no such folder"),
    ],
)
def test_refuses(home, tmp_path, capsys, args, said):
    args = [a.replace("{llava}", f"{home}/llava").replace("{home}", str(home)) for a in args]
    assert look(*args, "--out", tmp_path / "none") == 1
    assert said in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written(home, capsys):
    args = [home / "clip", home / "a.png", "--texts", "a", "--out", home / "a.png"]
    assert look(*args) == 1
    assert "expected a folder that can be written to" in capsys.readouterr().err


def test_interrupted(home, tmp_path):
    """Ctrl-C while it runs: a word, no traceback, nothing half written."""
    args = [home / "llava", home / "a.png", ASKED, "--answer", "red", "--out", tmp_path / "o"]
    code = (
        "import os, signal, sys\n"
        "from mmxai.cli import main\n"
        "from mmxai.methods.trace import question\n"
        "question.Question.run = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "trace", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 130 and "mmxai trace: interrupted" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "o").exists()
