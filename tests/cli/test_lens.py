"""`mmxai lens` from the command line: what it prints and writes of models and stores, what it refuses."""

import json

import pandas
import pytest
from PIL import Image

from mmxai.cli import main
from mmxai.methods.lens import load_lens
from mmxai.models import load_model
from mmxai.models.unembedding import unembedding
from mmxai.shapes import ShapesWorld
from tests.harvesting.conftest import save_tiny_clip

BANK = ["red", "blue", "a circle"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("lens")
    save_tiny_clip(home / "clip")
    for i, item in enumerate(ShapesWorld(3, seed=1, size=32)):
        item.pil.save(home / f"p{i}.png")
    (home / "bank.txt").write_text("\n".join(BANK) + "\n\n")
    (home / "pictures").mkdir()
    for i, item in enumerate(ShapesWorld(3, seed=1, size=32)):
        item.pil.save(home / "pictures" / f"{i}.png")
    return home


def test_texts(shared_data, tmp_path, capsys):
    model = f"{shared_data}/stories260K"
    (tmp_path / "p.txt").write_text("Once upon a time\n\nThe dog ran to the\n")
    args = ["lens", model, f"{tmp_path}/p.txt", "Lily saw a", "--out", f"{tmp_path}/out", "--k", "3"]
    assert main([*args, "--sites", "text.*.resid_post", "text.2.z", "--generate", "1"]) == 0
    shown = capsys.readouterr().out
    assert "what each block would say next" in shown and shown.count("read:") == 3
    assert "stories260K, text: 13 states" in shown and "the next token comes first" in shown
    assert "says the last's answer" in shown
    found = load_lens(tmp_path / "out/lens.json")
    assert found.k == 3 and len(found.samples) == 3 and found.samples[2]["text"] == "Lily saw a"
    assert (found.table.token_type == 6).sum() == 3
    page = (tmp_path / "out/index.html").read_text()
    assert "0: Once upon a time" in page and "Layers held against each other" in page
    assert main([*args, "--target", "the", "a", "--no-transfer"]) == 0
    assert "says the last's answer" not in capsys.readouterr().out
    assert load_lens(tmp_path / "out/lens.json").target_names == [" the", " a"]
    store = f"{tmp_path}/acts.zarr"
    assert (
        main(["harvest", model, f"{tmp_path}/p.txt", "--sites", "text.3.resid_post", "--store", store]) == 0
    )
    capsys.readouterr()
    assert (
        main(["lens", model, "The dog ran to the", "--neighbours", store, "--out", f"{tmp_path}/near"]) == 0
    )
    assert "The dog ran to« the»" in capsys.readouterr().out
    near = pandas.read_csv(tmp_path / "near/neighbours.csv")
    assert near["site"].unique() == ["text.3.resid_post"] and near["score"][0] > 0.99 and len(near) == 3
    assert main([*args, "--neighbours", store, "--sites", "text.1.resid_post"]) == 1
    assert "expected some, it has text.3.resid_post" in capsys.readouterr().err
    # A tuned lens, trained on two blocks: these are looked at, and the last.
    store = f"{tmp_path}/stream.zarr"
    sites = ["text.1.resid_post", "text.3.resid_post", "text.4.resid_post"]
    (tmp_path / "many.txt").write_text("".join(f"Once upon a time there were {i} cats\n" for i in range(40)))
    assert main(["harvest", model, f"{tmp_path}/many.txt", "--sites", *sites, "--store", store]) == 0
    tune = ["tune", store, "--model", model, "--out", f"{tmp_path}/tuned", "--steps", "2", "--batch", "8"]
    assert main([*tune, "--no-pickled"]) == 0
    assert main([*args, "--tuned", f"{tmp_path}/tuned"]) == 0
    assert "stories260K, text: 3 states" in capsys.readouterr().out
    assert load_lens(tmp_path / "out/lens.json").states == sites
    assert main([*args, "--tuned", f"{tmp_path}/tuned", "--sites", "text.0.resid_post"]) == 1
    assert "tuned lens: got site 'text.0.resid_post'" in capsys.readouterr().err
    assert main([*args, "--target", "unbelievable"]) == 1
    assert "'unbelievable': is" in capsys.readouterr().err
    assert main([*args, "--target", "next", "the"]) == 1
    assert "expected next alone" in capsys.readouterr().err


def test_pictures(home, tmp_path, capsys):
    args = ["lens", f"{home}/clip", f"{home}/p0.png", f"{home}/p1.png", "--out", f"{tmp_path}/out"]
    assert main([*args, "--texts", f"{home}/bank.txt", "--target", "blue"]) == 0
    shown = capsys.readouterr().out
    assert "what comes first in the picture's 16 cells" in shown and "vision.1.v" in shown
    found = load_lens(tmp_path / "out/lens.json")
    assert found.samples[1]["key"] == "p1.png" and set(found.tokens.values()) <= set(BANK)
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("data:image/webp") == 2 and "1: p1.png" in page
    assert main([*args, "--texts", *BANK, "--target", "green"]) == 1
    assert "is none of the texts, expected one of red, blue" in capsys.readouterr().err
    assert main(args) == 1
    assert "got no texts for clip" in capsys.readouterr().err
    # Its text tower, against its own token embeddings.
    words = ["lens", f"{home}/clip", "a red circle", "--against", "tokens", "--out", f"{tmp_path}/words"]
    assert main(words) == 0
    assert "clip, text: 3 states of 5 rows" in capsys.readouterr().out


def test_stores(home, tmp_path, capsys):
    store = f"{tmp_path}/acts.zarr"
    harvest = ["harvest", f"{home}/clip", f"{home}/pictures", "--store", store]
    assert main([*harvest, "--sites", "vision.*.resid_post", "vision.1.v", "--store-dtype", "float32"]) == 0
    args = ["lens", store, "--out", f"{tmp_path}/out", "--archive", f"{tmp_path}/all.zarr"]
    live = ["--model", f"{home}/clip", "--texts", *BANK, "--data", f"{home}/pictures"]
    capsys.readouterr()
    assert main([*args, *live]) == 0
    assert "acts.zarr, vision: 3 states of 51 rows" in capsys.readouterr().out
    assert (tmp_path / "out/index.html").read_text().count("data:image/webp") == 3
    assert json.loads((tmp_path / "all.zarr/zarr.json").read_text())["attributes"]["mmxai"] == "lens"
    unembedding(load_model(f"{home}/clip"), "vision", BANK).save(tmp_path / "end")
    assert (
        main([*args, "--model", f"{tmp_path}/end", "--sites", "vision.*.resid_post", "--samples", "1"]) == 0
    )
    assert "2 states of 17 rows" in capsys.readouterr().out
    for more, said in (
        ([], "got a store and no --model"),
        (["a prompt"], "expected no content"),
        (["--generate", "2", "--model", "x"], "expected a model"),
        (["--model", f"{tmp_path}/nowhere"], "no such folder"),
        (
            ["--model", f"{home}/clip", "--texts", "red", "blue", "--sites", "vision.7.*"],
            "vision.1.resid_post",
        ),
    ):
        assert main([*args, *more]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{home}/clip"], "got a model and nothing to read"),
        (["{home}/clip", "{home}/p9.png", "--texts", "a"], "did you mean"),
        (["{home}/clip", "{home}/p0.png", "--texts", "nowhere.txt"], "nowhere.txt: no such file"),
        (["{home}/clip", "{home}/p0.png", "--texts", "a", "b", "--k", "0"], "--k 0"),
        (["{home}/clip", "{home}/p0.png", "--data", "x"], "which is no store"),
        (["{home}/nothing.zarr", "--model", "x"], "nothing.zarr"),
        (["{home}/clip", "{home}/bank.png", "--texts", "a"], "is no picture"),
        (["{home}/clip", "{home}/p0.png", "--texts", "a", "b", "--tuned", "{home}"], "tuned"),
    ],
)
def test_refuses(home, tmp_path, capsys, args, said):
    (home / "bank.png").write_text("no picture")
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(home / "bank.png")
    args = [a.replace("{home}", str(home)) for a in args]
    assert main(["lens", *args, "--out", f"{tmp_path}/none"]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "none").exists()
