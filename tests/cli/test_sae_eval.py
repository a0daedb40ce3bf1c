"""`mmxai sae eval` and `encode` as typed: a tiny CLIP over pictures, a language model over contexts."""

import json

import numpy as np
import pytest
import torch

import mmxai
from mmxai.cli import main, sae_eval
from mmxai.cli._harvested import again, world_of
from mmxai.data.objects import MapSource
from mmxai.errors import ArgumentError
from mmxai.methods.sae import load_sae
from mmxai.methods.sae.evaluate import EvalConfig
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from mmxai.store.select import split_of
from tests.harvesting.conftest import save_tiny_clip
from tests.models.tokenizers_ import word_tokenizer

SITE = "vision.0.resid_post"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with clip/, world/, acts.zarr and sae/<site>/ in it."""
    home = tmp_path_factory.mktemp("eval")
    save_tiny_clip(home / "clip")
    export_folder(ShapesWorld(320, seed=1, size=32), home / "world")
    assert main([
        "harvest", f"{home}/clip", f"{home}/world/images", "--sites", SITE, "--store", f"{home}/acts.zarr",
        "--tokens", "patch",
    ]) == 0  # fmt: skip
    assert main([
        "sae", "train", f"{home}/acts.zarr", "--sites", SITE, "--latents", "64", "--k", "4", "--batch", "256",
        "--epochs", "2", "--lr", "3e-3", "--out", f"{home}/sae",
    ]) == 0  # fmt: skip
    return home


def test_eval(made, capsys):
    home, sae = made, f"{made}/sae/{SITE}"
    args = ["sae", "eval", sae, f"{home}/acts.zarr"]
    args += ["--model", f"{home}/clip", "--data", f"{home}/world/images"]
    assert main(args) == 0
    shown = capsys.readouterr().out
    for word in ("FVU", "pca", "frozen", "seed", "untrained", "similarity recovered", "concepts over", "IoU"):
        assert word in shown
    assert "missing" not in shown
    found = json.loads((home / "sae" / SITE / "eval.json").read_text())
    assert set(found["nulls"]) == {"pca", "frozen", "seed", "untrained"}
    assert found["recovered"]["similarity"]["items"] == found["concepts"]["samples"] >= 20
    assert found["nulls"]["pca"]["metrics"]["l0"] == 4 == found["metrics"]["l0"]
    assert main([*args, "--nulls", "pca", "seed", "--out", f"{home}/again.json"]) == 0
    other = json.loads((home / "again.json").read_text())
    assert other["nulls"]["seed"] == found["nulls"]["seed"], "kept, and the same for the same samples"


def test_eval_of_what_does_not_fit(made, capsys, tmp_path):
    home, sae = made, f"{made}/sae/{SITE}"
    store = f"{home}/acts.zarr"

    def said(*args):
        assert main(["sae", "eval", *args]) == 1
        return capsys.readouterr().err

    assert "eval.txt" in said(sae, store, "--out", "eval.txt")
    assert "sae.json" in said(f"{home}/sea", store)
    assert "expected --data" in said(sae, store, "--model", f"{home}/clip")
    export_folder(ShapesWorld(30, seed=2, size=32), tmp_path / "other")
    other = said(sae, store, "--model", f"{home}/clip", "--data", f"{tmp_path}/other/images")
    assert "not harvested into it" in other and "count" in other
    with pytest.raises(SystemExit):
        main(["sae", "eval", sae, store, "--nulls", "none"])
    assert "expected some" in capsys.readouterr().err
    assert main(["sae", "eval", sae, store, "--nulls", "", "--rows", "500"]) == 0
    assert "over 500 rows" in capsys.readouterr().out


def eval_parts(sae, store, home, **options):
    """What `run` gives `_live`: config, SAE, model, samples, world."""
    config = sae_eval.Config(sae=str(sae), store="", eval=EvalConfig(**options))
    sae = load_sae(sae)
    data = f"{home}/world/images"
    model = mmxai.load_model(str(home / "clip"))
    return config, sae, model, again(model, data, store, sae.spec.sites).samples, world_of(store, data)


class Noted:
    """Samples, and which were asked for."""

    def __init__(self, samples):
        self.samples, self.asked = samples, []

    def __getitem__(self, i):
        self.asked.append(i)
        return self.samples[i]


def test_the_model_sees_held_out_samples_only(made):
    with mmxai.open_store(made / "acts.zarr") as store:
        config, sae, model, samples, world = eval_parts(made / "sae" / SITE, store, made)
        noted = Noted(samples)
        live = sae_eval._live(model, noted, world, store, sae, config)
    held = np.flatnonzero(split_of(np.arange(320), (0.8, 0.1, 0.1)) == 2)
    assert sorted(noted.asked) == held.tolist() and len(held) >= 20
    keys = [sample.key for batch in live.batches for sample in batch]
    captioned = MapSource(world)
    assert keys == [captioned[int(i)].key for i in held]


def test_eval_of_few_samples(made, capsys, tmp_path):
    """Two held-out pictures: FVU is measured, concepts and what is recovered are named as missing."""
    home, store = made, f"{tmp_path}/few.zarr"
    data = f"{home}/world/images"
    assert main([
        "harvest", f"{home}/clip", data, "--sites", SITE, "--store", store, "--tokens", "patch",
        "--limit", "40",
    ]) == 0  # fmt: skip
    capsys.readouterr()
    args = ["--model", f"{home}/clip", "--data", data, "--nulls", "pca", "--out", f"{tmp_path}/eval.json"]
    assert main(["sae", "eval", f"{home}/sae/{SITE}", store, *args]) == 0
    shown = capsys.readouterr().out
    assert "missing: concepts" in shown and "missing: recovered" in shown and "at least 16" in shown
    found = json.loads((tmp_path / "eval.json").read_text())
    assert found["metrics"]["rows"] > 0 and set(found["nulls"]) == {"pca"} and not found["recovered"]


def test_a_pooled_site(made, capsys):
    """The rows of `vision.embeds` are not the patches'; what the tower sees is measured all the same."""
    home, store, site = made, f"{made}/pooled.zarr", "vision.embeds"
    data = f"{home}/world/images"
    assert main(["harvest", f"{home}/clip", data, "--sites", site, "--store", store]) == 0
    assert main([
        "sae", "train", store, "--sites", site, "--latents", "32", "--k", "4", "--batch", "64", "--out",
        f"{home}/pooled",
    ]) == 0  # fmt: skip
    args = [f"{home}/pooled/{site}", store, "--model", f"{home}/clip", "--data", data, "--nulls", ""]
    capsys.readouterr()
    assert main(["sae", "eval", *args]) == 0
    shown = capsys.readouterr().out
    assert "similarity recovered" in shown and "zero-shot colour" in shown and "missing" not in shown


def test_encode_and_take_latents_as_units(made, capsys):
    home = made
    args = ["sae", "encode", f"{home}/sae/{SITE}", f"{home}/acts.zarr", f"{home}/latents.zarr"]
    args += ["--exemplars", "24"]
    assert main(args) == 0
    assert f"site {SITE}.sae, 4 a row" in capsys.readouterr().out
    with mmxai.open_store(home / "latents.zarr") as store:
        assert store.sites == {f"{SITE}.sae": 64}
        assert store.stats[f"{SITE}.sae"].topk_values.shape == (64, 24)
        batch = next(iter(store.batches(64, tokens="patch", split="test")))
        assert (batch[f"{SITE}.sae"] > 0).sum(1).max() <= 4
    assert main(args) == 0 and "0 written" in capsys.readouterr().out
    assert main([*args[:4], f"{home}/none.zarr", "--tokens", "cls"]) == 1
    assert "SelectionError" in capsys.readouterr().err


def test_the_loss_of_a_language_model_over_packed_contexts(tmp_path, capsys):
    """Which contexts were harvested, and with what in front of each, is read from the store."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = word_tokenizer("none")
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=32)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    words = np.random.default_rng(0).integers(0, 100, (500, 9))
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(f"w{i}" for i in line) for line in words))
    site, store = "text.0.resid_post", f"{tmp_path}/acts.zarr"
    assert main([
        "harvest", f"{tmp_path}/lm", f"{tmp_path}/texts.txt", "--sites", site, "--store", store,
        "--context", "12", "--stride", "9", "--pack", "--bos", "always", "--limit", "400",
    ]) == 0  # fmt: skip
    with mmxai.open_store(store) as opened:
        model = mmxai.load_model(str(tmp_path / "lm"))
        found = again(model, f"{tmp_path}/texts.txt", opened, (site,))
        assert len(found.samples) == 400 and found.config.bos == "always"
        for i in (0, 57, 399):
            mine, stored = found.samples[i], opened.samples[i]
            assert (mine.key, mine.text) == (stored.key, stored.text)
            assert mine.tokens[0] == 1 and len(mine.tokens) == 12
    assert main([
        "sae", "train", store, "--sites", site, "--latents", "32", "--k", "4", "--batch", "256",
        "--epochs", "1", "--out", f"{tmp_path}/sae",
    ]) == 0  # fmt: skip
    args = ["--model", f"{tmp_path}/lm", "--data", f"{tmp_path}/texts.txt", "--nulls", "pca", "untrained"]
    capsys.readouterr()
    assert main(["sae", "eval", f"{tmp_path}/sae/{site}", store, *args]) == 0
    shown = capsys.readouterr().out
    assert "loss recovered" in shown and "untrained" in shown and "concepts" not in shown
    told = json.loads((tmp_path / "sae" / site / "eval.json").read_text())
    assert told["recovered"]["loss"]["clean"] == pytest.approx(np.log(len(tokenizer)), rel=0.05)


def test_which_world(made):
    with mmxai.open_store(made / "acts.zarr") as store:
        assert world_of(store, None) is None and world_of(store, str(made / "clip")) is None
        world = world_of(store, str(made / "world/images"))
        assert world.identity == ShapesWorld(320, seed=1, size=32).identity
        model = mmxai.load_model(str(made / "clip"))
        found = again(model, str(made / "world/images"), store, (SITE,))
        assert found.samples[7].key == store.samples[7].key and found.config.tokens == "patch"
        with pytest.raises(ArgumentError, match="not harvested"):
            again(model, ShapesWorld(320, seed=1, size=32), store, (SITE,))
