"""`mmxai neurons` from the command line: pages, labels, a model run without units, matching, refusals."""

import json
import re

import pytest
import torch

import mmxai
from mmxai.cli import main
from mmxai.methods.sae import SAE, SAESpec
from mmxai.shapes import ShapesWorld

SITE = "vision.2.mlp_post"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store of the shapes world, whose labels and pictures the plan tells of; and one of its text tower."""
    home = tmp_path_factory.mktemp("neurons")
    clip, world = mmxai.load_model("shapes-clip"), ShapesWorld(48, seed=5)
    mmxai.harvest(clip, world, sites=(SITE, "vision.2.z"), store=home / "acts.zarr", progress=False)
    mmxai.harvest(
        clip, world, sites=("vision.3.mlp_post", "text.2.mlp_post"), store=home / "next.zarr",
        progress=False,
    )  # fmt: skip
    return home


def look(home, out, *options, store="acts.zarr", site=SITE):
    return main(["neurons", str(home / store), "--site", site, "--out", str(out), *map(str, options)])


def test_pages_labels_and_ablation(home, tmp_path, capsys):
    live = ["--model", "shapes-clip", "--ablate", "blue", "--ablated", 4, "--sets", 1, "--live-samples", 24]
    assert look(home, tmp_path, "--tokens", "patch", "--units", 4, "--tasks", "colour", *live) == 0
    said = capsys.readouterr().out
    assert "of each label the best of all neurons" in said and "cosine with 'blue'" in said
    assert "blue margin" in said and "in brackets the mean of 1 random sets" in said
    index = (tmp_path / "index.html").read_text()
    assert "blue margin without units" in index and "pictures/" in index and "drawn at random" in index
    found = json.loads((tmp_path / "neurons.json").read_text())
    assert (
        len(found["mean"]) == 768
        and found["labels"]["names"][0] == "red"
        and found["by_type"].keys() == {"patch"}
    )
    page = next((tmp_path / "units").iterdir()).read_text()
    assert "Adds to" in page and 'class="heat"' in page and "What it tells" in page
    assert "Activation x gradient" in page
    saved = {p.name: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert saved.keys() == {"neurons.json", "contribution.json", "gradient.json", "ablation.json"}
    assert len(saved["gradient.json"]["mean"]) == 768 and saved["ablation.json"]["counts"] == [0, 1, 2, 4]
    # A second call into the same folder leaves nothing of the first.
    assert look(home, tmp_path, "--tokens", "patch", "--only", 3, "--tasks", "colour") == 0
    assert {p.name for p in tmp_path.glob("*.json")} == {"neurons.json"}
    assert [p.name for p in (tmp_path / "units").iterdir()] == ["3.html"]
    shown = set(re.findall(r"pictures/(\d+\.\w+)", (tmp_path / "units" / "3.html").read_text()))
    shown |= set(re.findall(r"pictures/(\d+\.\w+)", (tmp_path / "index.html").read_text()))
    assert shown == {p.name for p in (tmp_path / "pictures").iterdir()} and 0 < len(shown) < 48


def test_scaling_heads(home, tmp_path, capsys):
    live = ["--model", "shapes-clip", "--ablate", "red", "--ablated", 1, "--sets", 1, "--live-samples", 16]
    options = ["--how", "scale", "--factor", 3, "--only", 0, "--text", "a star", *live]
    assert look(home, tmp_path, *options, "--tasks", "colour", site="vision.2.z") == 0
    said = capsys.readouterr().out
    assert "times 3" in said and "what heads of vision.2.z add to the cosine with 'a star'" in said


def test_matching_across_towers(home, tmp_path, capsys):
    """Pictures' neurons with those of their captions, and with the units of another block."""
    across = ["--match", home / "next.zarr", "--match-site", "text.2.mlp_post", "--match-by", "mean"]
    assert look(home, tmp_path, *across, "--only", "5,6", "--tokens", "patch") == 0
    said = capsys.readouterr().out
    assert "vision.2.mlp_post to text.2.mlp_post by mean, 48 samples" in said
    assert "largest |r| with text.2.mlp_post" in (tmp_path / "index.html").read_text()
    assert "Alike elsewhere" in (tmp_path / "units" / "5.html").read_text()
    assert len(json.loads((tmp_path / "matches.json").read_text())["match"]) == 768
    assert look(home, tmp_path, "--match-site", "vision.2.z", "--match-by", "row", "--only", 5) == 0
    assert "vision.2.mlp_post to vision.2.z by row" in capsys.readouterr().out


def test_heads_are_known_to_the_store_and_only_names_units(home, tmp_path, capsys):
    assert look(home, tmp_path, "--only", "0,2", site="vision.2.z") == 0
    said = capsys.readouterr().out
    assert "heads of vision.2.z" in said and sorted(p.name for p in (tmp_path / "units").iterdir()) == [
        "0.html",
        "2.html",
    ]
    assert look(home, tmp_path, "--only", "0", "--heads", 0, site="vision.2.z") == 0
    assert "192 neurons of vision.2.z" in capsys.readouterr().out


def test_boxes_of_a_file_and_matching(home, tmp_path, capsys):
    (tmp_path / "boxes.csv").write_text(
        "sample,x0,y0,x1,y1,label\n" + "".join(f"{i},0,0,32,32,corner\n" for i in range(48))
    )
    options = ["--labels", tmp_path / "boxes.csv", "--units", 1, "--match", home / "next.zarr"]
    assert (
        look(home, tmp_path / "out", *options, "--match-site", "vision.3.mlp_post", "--tokens", "patch") == 0
    )
    said = capsys.readouterr().out
    assert "corner" in said and "AUC exact" in said and "25.0%" in said
    assert "by max, 48 samples" in said and "mutual matches" in said


def test_refuses(home, tmp_path, capsys):
    for options, message in (
        (["--ablate", "blue"], "got no --model"),
        (["--units", 0], "at least 1"),
        (["--only", "a"], "numbers with commas"),
        (["--only", "9999"], "expected some from 0 to 767"),
        (["--model", "shapes-clip-half"], "other weights"),
        (["--heads", 7], "divisor"),
        (["--labels", tmp_path / "none.csv"], "no such file"),
        (["--model", "shapes-clip", "--ablate", "teal", "--live-samples", 2], "got 'teal'"),
        (["--model", "shapes-clip", "--ablate", "bleu", "--tasks", "colour"], "did you mean 'blue'"),
        (["--match", home / "none.zarr"], "none.zarr"),
        (["--match-site", "vision.9.z"], "vision.9.z"),
    ):
        assert look(home, tmp_path, *options) == 1, options
        told = capsys.readouterr()
        assert message in told.err and "one pass" not in told.out  # before anything is read


def test_a_language_model(shared_data, tmp_path, capsys):
    lines = (shared_data / "text_labels" / "TREC.test.all").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "texts.txt").write_text("\n".join(line.split(" ", 1)[1] for line in lines) + "\n")
    (tmp_path / "labels.csv").write_text(
        "sample,label\n" + "".join(f"{i},{line.split()[0]}\n" for i, line in enumerate(lines))
    )
    model, data = str(shared_data / "stories260K"), str(tmp_path / "texts.txt")
    site = "text.2.mlp_post"
    mmxai.harvest(mmxai.load_model(model), data, sites=(site,), store=tmp_path / "acts.zarr", progress=False)
    options = ["--model", model, "--data", data, "--labels", tmp_path / "labels.csv", "--units", 3]
    label = lines[0].split()[0]
    assert (
        look(tmp_path, tmp_path / "out", *options, "--ablate", label, "--ablated", 2, "--sets", 1, site=site)
        == 0
    )
    said = capsys.readouterr().out
    assert "add to the next token's logit" in said and "next-token loss" in said
    page = next((tmp_path / "out" / "units").iterdir()).read_text()
    assert "<mark>" in page and "<img" not in page


@pytest.fixture(scope="module")
def latents(home):
    """An SAE of patches, random (asked is whether its latents are edited), another, and a store of codes."""
    for seed, name in enumerate(("sae", "other")):
        sae = SAE.zeros(SAESpec("topk", 300, ("vision.2.resid_post",), (192,), k=8))
        sae.W_dec.copy_(torch.randn(300, 192, generator=torch.Generator().manual_seed(seed)) / 14)
        sae.W_enc.copy_(sae.W_dec)
        sae.save(home / name)
    clip = mmxai.load_model("shapes-clip")
    mmxai.harvest(
        clip,
        ShapesWorld(48, seed=5),
        sites=("vision.2.resid_post",),
        store=home / "post.zarr",
        progress=False,
    )
    encode = ["sae", "encode", str(home / "sae"), str(home / "post.zarr"), str(home / "codes.zarr")]
    assert main([*encode, "--tokens", "patch"]) == 0
    return home


def test_latents_in_the_running_model(latents, tmp_path, capsys):
    live = ["--model", "shapes-clip", "--sae", latents / "sae", "--live-samples", 24]
    options = ["--tasks", "colour", "--ablate", "red", "--ablated", 4, "--sets", 1, "--units", 2]
    codes = {"store": "codes.zarr", "site": "vision.2.resid_post.sae"}
    assert look(latents, tmp_path, *live, *options, **codes) == 0
    said = capsys.readouterr().out
    assert "of each label the best of all latents" in said
    # Of a dictionary of patches nothing goes straight to what is read at the class token.
    assert "no contributions" in said and "does not encode" in said
    assert (
        "what latents of vision.2.resid_post.sae add to the cosine with 'red' (activation x gradient" in said
    )
    saved = json.loads((tmp_path / "ablation.json").read_text())
    assert saved["site"] == "vision.2.resid_post.sae" and saved["counts"] == [0, 1, 2, 4]
    margin = saved["chosen"]["red margin"]
    assert margin[0] != margin[3]
    assert len(json.loads((tmp_path / "gradient.json").read_text())["mean"]) == 300
    page = next((tmp_path / "units").iterdir()).read_text()
    assert "latent" in page and "Activation x gradient" in page


def test_latents_want_their_own_sae(latents, tmp_path, capsys):
    codes = {"store": "codes.zarr", "site": "vision.2.resid_post.sae"}
    model = ["--model", "shapes-clip"]
    for options, message in (
        ([*model, "--ablate", "red"], "without --sae"),
        (["--sae", latents / "sae"], "--sae: got no --model"),
        ([*model, "--sae", latents / "other"], "another SAE"),
        ([*model, "--sae", latents / "post.zarr"], "sae.json"),
        ([*model, "--sae", latents / "sae", "--data", latents], "got a folder that holds"),
    ):
        assert look(latents, tmp_path, *options, **codes) == 1, options
        told = capsys.readouterr()
        assert message in told.err and "one pass" not in told.out
    assert look(latents, tmp_path, *model, "--only", 3, **codes) == 0
    assert "the model is not run" in capsys.readouterr().out


def test_several_labels_a_sample(home, tmp_path, capsys):
    """What the reader asks for (--multilabel) there is."""
    rows = [f"{i},{'even' if i % 2 == 0 else 'odd'}|{'low' if i < 24 else 'high'}" for i in range(48)]
    labels = tmp_path / "several.csv"
    labels.write_text("\n".join(["sample,has", *rows]))
    options = ["--labels", labels, "--units", 1, "--tokens", "cls"]
    assert look(home, tmp_path / "out", *options, "--multilabel", "has") == 0
    saved = json.loads((tmp_path / "out/neurons.json").read_text())
    assert saved["labels"]["names"] == ["even", "high", "low", "odd"]
    assert look(home, tmp_path / "out", "--multilabel", "has") == 1
    assert "--multilabel: got no --labels" in capsys.readouterr().err
