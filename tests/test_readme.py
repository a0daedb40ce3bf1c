"""The README's examples run as they stand, on a small CLIP and a few pictures."""

import re
from pathlib import Path

import torch

from mmxai.methods.sae import SAE, SAESpec
from mmxai.shapes import ShapesWorld
from mmxai.shapes.model import random_clip

README = Path(__file__).parent.parent / "README.md"


def test_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_clip(tmp_path / "path" / "to" / "clip")
    pictures = tmp_path / "path" / "to" / "pictures"
    pictures.mkdir()
    world = ShapesWorld(40, seed=2)
    for i in range(40):
        world[i].pil.save(pictures / f"{i:02}.png")
    first, second, third = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
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
