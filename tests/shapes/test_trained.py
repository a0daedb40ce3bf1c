"""The models that ship are what their cards say."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import mmxai
from mmxai.errors import ModelError
from mmxai.models.shipped import shipped_models
from mmxai.shapes import ShapesWorld
from mmxai.shapes.card import FEW
from mmxai.shapes.model import new_clip
from mmxai.shapes.score import interval, scores
from mmxai.shapes.towers import Towers, load_towers

LEAST = {
    "retrieval of the picture among 256": 0.96,
    "retrieval of the caption among 256": 0.96,
    "zero-shot colour": 0.95,
    "zero-shot shape": 0.95,
    "zero-shot fill": 0.85,
    "zero-shot place": 0.95,
    "binding, colour swapped": 0.90,
    "binding, relation swapped": 0.80,
}
SEEDS = {"shapes-clip-second": 1}
NAMES = [name for name in shipped_models() if name.startswith("shapes-clip")]


def test_four_ship_and_stay_small():
    assert NAMES[0] == "shapes-clip" and len(NAMES) == 4
    sizes = [(shipped_models()[n] / "model.safetensors").stat().st_size for n in NAMES]
    assert max(sizes) < 10e6 and sum(sizes) < 30e6


@pytest.mark.parametrize("name", NAMES)
def test_scores_taken_again_are_the_card_s(name):
    folder = shipped_models()[name]
    kept = json.loads((folder / "scores.json").read_text())
    trained, untrained = load_towers(folder), Towers(new_clip(SEEDS.get(name, 0)))
    for key, towers, split in (
        ("test", trained, "test"),
        ("compositional", trained, "compositional"),
        ("untrained", untrained, "test"),
    ):
        few = {s["name"]: s for s in kept["few"][key]}
        many = {s["name"]: s for s in kept["scores"][key]}
        for score in scores(towers, split, pictures=FEW):
            # Another processor rounds differently: a picture on the edge may fall to the other side.
            assert abs(score.value - few[score.name]["value"]) * score.n <= 2, score
            spread = (many[score.name]["value"] * (1 - many[score.name]["value"]) / score.n) ** 0.5
            assert abs(score.value - many[score.name]["value"]) < 5 * spread + 0.01, score


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_scored(name):
    folder = shipped_models()[name]
    card = (folder / "README.md").read_text()
    for kept in json.loads((folder / "scores.json").read_text())["scores"].values():
        for s in kept:
            again = interval(np.arange(s["n"]) < round(s["value"] * s["n"]), s["name"], s["chance"])
            assert again.to_json() == s
            assert f"{s['value']:.1%} [{s['low']:.1%}, {s['high']:.1%}] of {s['n']:,}" in card


def test_the_trained_one_knows_the_world():
    """What later methods rest on: as the card has it, and with some room on another seed."""
    folder = shipped_models()["shapes-clip"]
    kept = {s["name"]: s["value"] for s in json.loads((folder / "scores.json").read_text())["scores"]["test"]}
    found = {s.name: s.value for s in scores(load_towers(folder), seed=7, pictures=512)}
    for name, least in LEAST.items():
        assert kept[name] >= least and found[name] >= least - 0.04, name


def test_two_ways_of_loading_agree():
    folder, item = shipped_models()["shapes-clip"], ShapesWorld(4, split="test")[3]
    plain = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(folder)(item.caption, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(item.pil, return_tensors="pt")
    with torch.no_grad():
        out = plain(**words, **pixels)
    model = mmxai.load_model("shapes-clip")
    assert model.dtype == torch.float32 and model.name == "shapes-clip"
    run = model.run(model.prepare([item]), capture=["vision.embeds", "text.embeds"])
    for side, expected in (("vision", out.image_embeds), ("text", out.text_embeds)):
        found = torch.nn.functional.normalize(run.acts[f"{side}.embeds"].float().reshape(1, -1), dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert mmxai.load_model("shapes-clip", dtype="float16").dtype == torch.float16


def test_a_mistyped_name_is_told_the_right_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="mmxai ships shapes-clip"):
        mmxai.load_model("shape-clip")
