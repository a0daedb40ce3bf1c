"""The models that ship are what their cards say."""

import json

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import mmxai
from mmxai.models.shipped import shipped_models
from mmxai.shapes import ShapesWorld
from mmxai.shapes.card import CHECK
from mmxai.shapes.score import scores
from mmxai.shapes.towers import load_towers

NAMES = [name for name in shipped_models() if name.startswith("shapes-clip")]


def test_four_ship_and_stay_small():
    assert NAMES[0] == "shapes-clip" and len(NAMES) == 4
    sizes = [(shipped_models()[n] / "model.safetensors").stat().st_size for n in NAMES]
    assert max(sizes) < 10e6 and sum(sizes) < 30e6


@pytest.mark.parametrize("name", NAMES)
def test_scores_taken_again_are_the_card_s(name):
    folder = shipped_models()[name]
    kept = json.loads((folder / "scores.json").read_text())["scores"]
    wanted = {s["name"]: s for s in kept[CHECK]}
    for score in scores(load_towers(folder), "test", pictures=256):
        # Another processor rounds differently: a picture on the edge may fall to the other side.
        assert abs(score.value - wanted[score.name]["value"]) * score.n <= 2, score
    card = (folder / "README.md").read_text()
    for split in ("test", "compositional", "untrained"):
        for s in kept[split]:
            assert f"{s['value']:.1%} [{s['low']:.1%}, {s['high']:.1%}] of {s['n']:,}" in card
    few, many = ({s["name"]: s for s in kept[k]} for k in (CHECK, "test"))
    for key, s in few.items():
        spread = (many[key]["value"] * (1 - many[key]["value"]) / s["n"]) ** 0.5
        assert abs(s["value"] - many[key]["value"]) < 4 * spread + 0.01, key


def test_the_trained_one_knows_the_world():
    """The claims that later methods rest on, on pictures of another seed than the card's."""
    found = {
        s.name: s.value for s in scores(load_towers(shipped_models()["shapes-clip"]), seed=7, pictures=512)
    }
    assert found["retrieval of the picture among 256"] > 0.93
    assert found["zero-shot colour"] > 0.93 and found["zero-shot shape"] > 0.93
    assert found["zero-shot fill"] > 0.82
    assert found["binding, colour swapped"] > 0.86 and found["binding, relation swapped"] > 0.76


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
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(mmxai.ModelError, match="mmxai ships shapes-clip"):
        mmxai.load_model("shape-clip")
