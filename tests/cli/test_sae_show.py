"""`mmxai sae show` from the command line, over the shapes world: its pages, and what it refuses."""

import json
import re

import pytest
import torch

import mmxai
from mmxai.cli import main
from mmxai.methods.sae import SAE, SAESpec
from mmxai.shapes import ShapesWorld

SITE = "vision.5.resid_post"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `sae`, its evaluation and metrics, `latents.zarr`, and `other`, an SAE nobody encoded."""
    home = tmp_path_factory.mktemp("show")
    mmxai.harvest(
        mmxai.load_model("shapes-clip"), ShapesWorld(80, seed=5), sites=SITE, tokens="patch",
        store=home / "acts.zarr", progress=False,
    )  # fmt: skip
    for name, seed in (("sae", 0), ("other", 1)):
        sae = SAE.zeros(SAESpec("topk", 48, (SITE,), (192,), k=4))
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(48, 192, generator=_seed(seed)), dim=1))
        sae.W_enc.copy_(sae.W_dec)
        sae.save(home / name)
    lines = [json.dumps({"step": i, "rows": 9 * i, "fvu": 1 / (i + 1), "l0": 4.0}) for i in range(5)]
    for folder in ("sae", "deep/sae"):
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    sae, acts = str(home / "sae"), str(home / "acts.zarr")
    assert main(["sae", "eval", sae, acts, "--nulls", "pca", "--split", "None"]) == 0
    assert main(["sae", "encode", sae, acts, str(home / "latents.zarr")]) == 0
    return home


def _seed(seed):
    return torch.Generator().manual_seed(seed)


def show(made, out, *options, sae="sae"):
    paths = [str(made / sae), str(made / "latents.zarr")]
    return main(["sae", "show", *paths, "--out", str(out), *map(str, options)])


def test_show(made, tmp_path, capsys):
    compare = ["--compare", made / "deep/sae"]
    assert show(made, tmp_path, "--latents", 5, "--model", "shapes-clip", *compare) == 0
    said = capsys.readouterr().out
    assert "random directions to any" in said and f"MB: {tmp_path / 'index.html'}" in said
    index = (tmp_path / "index.html").read_text()
    assert len(re.findall("<article ", index)) == 5 and "pictures/" in index
    assert "Known concepts" in index and "<th>pca</th>" in index and "<h3>fvu <span>" in index
    assert f"</i>{made.name}/sae<" in index and "</i>deep/sae<" in index  # told apart by their ends
    known = {s["latent"] for s in json.loads((made / "sae/eval.json").read_text())["concepts"]["scores"]}
    pages = {int(p.stem) for p in (tmp_path / "latents").iterdir()}
    assert known < pages and len(pages - known) <= 5
    page = (tmp_path / "latents" / f"{min(known)}.html").read_text()
    assert 'class="heat"' in page and "Nearest texts" in page and "final norm" in page
    # A second run replaces the pages of the first.
    assert show(made, tmp_path, "--only", "3,17") == 0
    assert sorted(p.name for p in (tmp_path / "latents").iterdir()) == ["17.html", "3.html"]
    assert "Nearest texts" not in (tmp_path / "latents/3.html").read_text()


def test_texts_of_a_file(made, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("red\n\n a green circle \nblue\n")
    assert show(made, tmp_path, "--only", "3", "--model", "shapes-clip", "--texts", texts) == 0
    assert "1 units, 3 texts" in capsys.readouterr().out
    assert ">a green circle<" in (tmp_path / "latents/3.html").read_text()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--latents", "0"], "got --latents 0, --top 24, expected at least 1"),
        (["--only", "3,x"], "got '3,x', expected numbers"),
        (["--only", "48"], "got latents [48], expected 0 <= latent < 48"),
        (["--model", "shapes-clip-early"], "expected the model that was harvested"),
        (["--compare", "nowhere"], "got no metrics.jsonl there"),
        (["--site", "vision.9.resid_post"], "vision.9.resid_post"),
        (["--texts", "nowhere.txt", "--model", "shapes-clip"], "nowhere.txt"),
    ],
)
def test_refuses(made, tmp_path, capsys, options, said):
    assert show(made, tmp_path / "pages", *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "pages/index.html").exists()


def test_refuses_another_sae(made, tmp_path, capsys):
    assert show(made, tmp_path, sae="other") == 1
    assert "a store that another SAE (weights " in capsys.readouterr().err


def test_refuses_a_store_of_activations(made, tmp_path, capsys):
    assert main(["sae", "show", str(made / "sae"), str(made / "acts.zarr"), "--site", SITE]) == 1
    assert "a store that no SAE made" in capsys.readouterr().err


def test_refuses_other_pictures(made, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(80):
        ShapesWorld(80, seed=6)[i].pil.save(pictures / f"{i:07}.png")
    assert show(made, tmp_path / "pages", "--images", pictures) == 1
    assert "the very data that the store is of" in capsys.readouterr().err
