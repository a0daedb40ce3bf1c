"""The README's examples run as they stand, on a small CLIP and a few pictures."""

import re
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mmxai
from mmxai.methods.sae import SAE, SAESpec
from mmxai.shapes import ShapesWorld
from mmxai.shapes.model import random_clip
from tests.models.tokenizers_ import word_tokenizer

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


def test_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_clip(tmp_path / "path" / "to" / "clip")
    pictures = tmp_path / "path" / "to" / "pictures"
    pictures.mkdir()
    world = ShapesWorld(40, seed=2)
    for i in range(40):
        world[i].pil.save(pictures / f"{i:02}.png")
    first, second, third, _ = BLOCKS
    names = {"some_picture": world[0].pil}
    exec(compile(first, "README", "exec"), names)
    assert "vision.0.resid_pre" in capsys.readouterr().out
    width = names["batch"].x.shape[1]
    SAE.zeros(SAESpec("topk", 64, ("vision.5.resid_post",), (width,), k=4)).save("sae/vision.5.resid_post")
    exec(compile(third, "README", "exec"), names)
    assert names["rebuilt"].shape == names["batch"].x.shape
    (tmp_path / "acts.zarr").rename(tmp_path / "harvested.zarr")
    names = {"tensor": torch.randn(2, 768)}
    exec(compile("import mmxai\n" + second, "README", "exec"), names)
    assert (tmp_path / "acts.zarr" / "vision.5.resid_post").is_dir()


def test_probe_and_steering(capsys):
    tokenizer, width = word_tokenizer(), 16
    sizes = dict(hidden_size=width, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=64))
    x = torch.randn(100, width)
    names = {
        "mmxai": mmxai, "model": mmxai.load_model(llama, tokenizer=tokenizer), "x": x.numpy(),
        "labels": (x[:, 0] > 0).numpy(), "direction": torch.randn(width),
    }  # fmt: skip
    exec(compile(BLOCKS[3], "README", "exec"), names)
    assert names["probe"].score(names["x"], names["labels"]) > 0.9
    assert len(capsys.readouterr().out.split()) > 20
