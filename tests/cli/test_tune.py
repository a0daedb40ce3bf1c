"""`mmxai tune` as typed: from a store to a lens that `load_tuned_lens` reads."""

import json

import pytest
import torch

import mmxai
from mmxai.cli import main
from mmxai.methods.lens.tuned import load_tuned_lens
from mmxai.models.unembedding import unembedding
from tests.models.contract import shake
from tests.models.test_text import SIZES, LlamaConfig, LlamaForCausalLM
from tests.models.tokenizers_ import word_tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    torch.manual_seed(0)
    shake(LlamaForCausalLM(LlamaConfig(**SIZES))).save_pretrained(folder / "llama")
    word_tokenizer("none").save_pretrained(folder / "llama")
    model = mmxai.load_model(folder / "llama")
    data = [" ".join(f"w{n}" for n in torch.randint(55, (12,)).tolist()) for _ in range(60)]
    mmxai.harvest(
        model, [{"text": text} for text in data], sites="text.*.resid_post", store=folder / "acts.zarr",
        store_dtype="float32", progress=False,
    )  # fmt: skip
    return folder


def test_tune(home, capsys):
    command = ["tune", f"{home}/acts.zarr", "--out", f"{home}/lens", "--batch", "64"]
    command += ["--steps", "20", "--eval-every", "10"]
    assert main([*command, "--model", f"{home}/llama"]) == 0
    shown = capsys.readouterr().out
    assert "text.1.resid_post" in shown and "KL tuned" in shown and f"written to {home}/lens" in shown
    names = {p.name for p in (home / "lens").iterdir()}
    assert names == {
        "checkpoint.safetensors", "config.json", "params.pt", "params.safetensors", "tuned.json",
    }  # fmt: skip
    said = json.loads((home / "lens" / "tuned.json").read_text())
    assert [s["site"] for s in said["sites"]] == ["text.0.resid_post", "text.1.resid_post"]
    assert all(s["kl"] < s["kl_plain"] for s in said["sites"])
    lens = load_tuned_lens(home / "lens")
    assert lens.sites == ["text.0.resid_post", "text.1.resid_post"] and lens.model == "llama"
    unembedding(mmxai.load_model(home / "llama")).save(home / "end")
    assert main([*command[:3], f"{home}/alone", *command[4:], "--model", f"{home}/end", "--no-pickled"]) == 0
    other = load_tuned_lens(home / "alone")
    for depth, weight in lens.weight.items():
        torch.testing.assert_close(other.weight[depth], weight, atol=1e-4, rtol=0)
    assert not (home / "alone" / "params.pt").exists()


def test_another_model(home, tmp_path, capsys):
    shake(LlamaForCausalLM(LlamaConfig(**SIZES)), seed=7).save_pretrained(tmp_path / "other")
    assert main(["tune", f"{home}/acts.zarr", "--model", f"{tmp_path}/other", "--out", f"{tmp_path}/x"]) == 1
    assert "weights" in capsys.readouterr().err
