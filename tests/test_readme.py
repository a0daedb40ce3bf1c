"""The README's examples run as they stand, on a small CLIP and a few pictures."""

import re
from pathlib import Path

import torch

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
    first, second = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    exec(compile(first, "README", "exec"), {"some_picture": world[0].pil})
    assert "vision.0.resid_pre" in capsys.readouterr().out
    (tmp_path / "acts.zarr").rename(tmp_path / "harvested.zarr")
    names = {"tensor": torch.randn(2, 768)}
    exec(compile("import mmxai\n" + second, "README", "exec"), names)
    assert (tmp_path / "acts.zarr" / "vision.5.resid_post").is_dir()
