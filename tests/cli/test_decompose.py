"""`mmxai decompose dictionary` as a command: twice, interrupted, with an SAE, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mmxai
from mmxai.cli import decompose_dictionary, main
from mmxai.methods.sae import SAE, SAESpec, load_sae
from mmxai.shapes import ShapesWorld
from tests.methods.decompose.stores import SITE, UNITS, WIDTH, make_store

OPTIONS = ("--units", str(UNITS), "--tokens", "patch")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store, and an SAE of the directions planted in it with another seed's beside."""
    home = tmp_path_factory.mktemp("decompose")
    store, directions, _ = make_store(home / "acts.zarr")
    store.close()
    spec = SAESpec("jumprelu", UNITS, (SITE,), (WIDTH,))
    for folder in ("known", "known/nulls/seed"):
        SAE(
            spec, W_enc=directions.clone(), b_enc=torch.zeros(UNITS), W_dec=directions.clone(),
            b_dec=torch.ones(WIDTH), threshold=torch.full((UNITS,), 1e-3),
        ).save(home / folder)  # fmt: skip
    return home


def decompose(made, out, *options, sites=SITE):
    where = (str(made / "acts.zarr"), "--sites", sites, "--out", str(out))
    return main(["decompose", "dictionary", *where, *OPTIONS, *map(str, options)])


def test_table_names_and_pages_twice(made, tmp_path, capsys):
    kinds = ("--kinds", "pca", "ica", "kmeans")
    assert decompose(made, tmp_path, *kinds, "--sae", made / "known") == 0
    said = capsys.readouterr().out
    assert "... ica: seed 1" in said and "sae known" in said and "have a name" in said
    home = tmp_path / SITE
    lines = json.loads((home / "decompose.json").read_text())["comparison"]["lines"]
    assert set(lines) == {"pca", "ica", "kmeans", "sae known"}
    assert lines["sae known"]["stability"] == pytest.approx(1) and lines["sae known"]["fvu"] < 1e-6
    index = (home / "pages" / "index.html").read_text()
    assert "sae known" in index and 'href="ica.html"' in index and "<svg" in index
    page = (home / "pages" / "ica.html").read_text()
    assert len(re.findall("<article ", page)) == UNITS and ">low</h3>" in page
    assert all(word in page for word in ("alpha", "beta", "gamma", "delta", "epsilon"))
    assert ">low</h3>" not in (home / "pages" / "kmeans.html").read_text()
    # A second run with other options: codes, pages and names are those of its own dictionaries.
    (home / "pca" / "texts.json").write_text("{}")
    assert decompose(made, tmp_path, "--kinds", "pca", "--units", 3, "--seeds", 0) == 0
    assert {p.name for p in (home / "pages").glob("*.html")} == {"index.html", "pca.html"}
    assert not (home / "pca" / "texts.json").exists() and (home / "ica").is_dir()
    with mmxai.open_store(home / "codes.zarr") as codes:
        assert codes.sites == {f"{SITE}.pca": 3}


def test_too_few_samples_for_names(tmp_path, capsys):
    store, _, _ = make_store(tmp_path / "acts.zarr", samples=9)
    store.close()
    options = ("--kinds", "pca", "--split", "None", "--seeds", 0, "--no-pages")
    made = decompose(tmp_path, tmp_path / "out", *options)
    captured = capsys.readouterr()
    assert made == 0, captured.err
    assert "no names by activation: there are 9 samples" in captured.out


def test_an_sae_of_other_tokens_says_so(made, tmp_path, capsys):
    sae = load_sae(made / "known")
    sae.spec = replace(sae.spec, identity={"train": {"config": {"tokens": "cls"}}})
    sae.save(tmp_path / "cls")
    assert decompose(made, tmp_path, "--kinds", "pca", "--sae", tmp_path / "cls", "--no-pages") == 0
    assert "sae cls: no stability" in (said := capsys.readouterr().out)
    assert "trained on cls tokens, figures are of patch" in said


def test_refuses(made, tmp_path, capsys):
    def said(*arguments, **names):
        assert decompose(made, tmp_path, *arguments, **names) == 1
        return capsys.readouterr().err

    assert "vision.9" in said(sites="vision.9.resid_post")
    assert "use seminmf" in said("--kinds", "nmf")
    assert "nowhere" in said("--sae", tmp_path / "nowhere")
    assert "nowhere.csv" in said("--labels", tmp_path / "nowhere.csv")
    wide = SAE.zeros(SAESpec("topk", 8, ("vision.7.mlp_post",), (WIDTH,), k=2))
    wide.save(tmp_path / "wide")
    assert f"expected an SAE of one of {SITE}" in said("--sae", tmp_path / "wide")
    assert not (tmp_path / SITE).exists()  # all told before anything is fitted
    assert "got 999, expected between 1 and 128" in said("--top", 999)
    assert "nowhere.txt" in said("--texts", tmp_path / "nowhere.txt")
    assert "nowhere" in said("--images", tmp_path / "nowhere")
    assert not (tmp_path / SITE).exists()
    (tmp_path / SITE / "codes.zarr").mkdir(parents=True)
    assert "codes.zarr" in said("--kinds", "pca")
    assert main(["decompose", "dictionary", str(tmp_path / "nothing.zarr"), "--sites", SITE]) == 1
    assert main(["decompose", "dictionery"]) == 2
    for option, value in (("--kinds", "svd"), ("--units", "0")):
        with pytest.raises(SystemExit, match="2"):
            main(["decompose", "dictionary", str(made / "acts.zarr"), "--sites", SITE, option, value])


def test_interrupted_and_run_again(made, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the last fit. No signal: a process that was started in the background ignores SIGINT."""

    def told(what, **options):
        print(what, **options)
        if "kmeans: 5 units" in str(what):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(decompose_dictionary, "print", told, raising=False)
        assert decompose(made, tmp_path) == 130
    err = capsys.readouterr().err
    assert "interrupted" in err and "Traceback" not in err
    assert (tmp_path / SITE / "ica" / "dictionary.json").exists()
    assert decompose(made, tmp_path, "--kinds", "kmeans", "--seeds", 0) == 0


def test_a_clips_pictures_and_nearest_texts(tmp_path, capsys):
    mmxai.harvest(
        mmxai.load_model("shapes-clip"), ShapesWorld(60, seed=5), sites=SITE.replace("0", "5"),
        tokens="patch", store=tmp_path / "acts.zarr", progress=False,
    )  # fmt: skip
    options = ("--kinds", "ica", "spherical", "--model", "shapes-clip", "--units", 6, "--seeds", 0)
    assert decompose(tmp_path, tmp_path / "out", *options, sites="vision.5.resid_post") == 0
    assert "random directions to any" in capsys.readouterr().out
    home = tmp_path / "out" / "vision.5.resid_post"
    page = (home / "pages" / "ica.html").read_text()
    assert "pictures/" in page and "random directions 95% are no nearer" in page
    near = json.loads((home / "ica" / "texts.json").read_text())
    assert len(near["units"]) == 6 and not near["exact"]  # patches are not the token that is pooled


@pytest.mark.parametrize("part", ["dictionary", "path"])
def test_commands_that_are_written_down_have_their_options(part, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["decompose", part, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    home = Path(mmxai.__file__).parent.parent
    used = set()
    for page in ("README.md", "docs/decompose.md", "docs/path.md"):
        text = (home / page).read_text().replace("\\\n", " ")
        for line in re.findall(rf"^ {{4}}mmxai decompose {part} .*", text, re.MULTILINE):
            used |= set(re.findall(r"--[a-z][a-z-]*", line))
    assert used and used <= known, used - known
