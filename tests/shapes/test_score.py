"""Scores: an oracle gets everything, chance gets chance, and the intervals cover."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from mmxai.errors import ArgumentError, ModelError
from mmxai.shapes import ShapesWorld, parse
from mmxai.shapes.model import new_clip, random_clip
from mmxai.shapes.score import SEED, binding, interval, scores
from mmxai.shapes.towers import Towers, load_towers
from mmxai.shapes.truth import truth


class Oracle:
    """Knows each picture by its pixels and looks up whether a sentence is true of it."""

    def __init__(self, worlds):
        self.graphs = {}
        for world, n in worlds:
            batch = world.batch(range(n), texts=0)
            self.graphs |= {i.tobytes(): g for i, g in zip(batch.images, batch.graphs, strict=True)}
        self.seen = list(self.graphs)

    def embed_pictures(self, images):
        numbers = [self.seen.index(i.tobytes()) for i in images]
        return torch.nn.functional.one_hot(torch.tensor(numbers), len(self.seen)).float()

    def embed_texts(self, texts):
        return torch.from_numpy(truth([parse(t) for t in texts], list(self.graphs.values()))).float()


@pytest.mark.parametrize("split", ["test", "compositional"])
def test_an_oracle_is_always_right(split):
    world = ShapesWorld(1 << 30, seed=SEED, split=split)
    for score in scores(Oracle([(world, 1024)]), split, pictures=256):
        assert score.value == score.high == 1, score


def test_untrained_is_at_chance():
    for score in scores(Towers(new_clip()), "val", pictures=256):
        assert abs(score.value - score.chance) < (0.25 if score.chance < 0.3 else 0.2), score
        assert score.low <= score.value <= score.high and score.n > 30


def test_the_interval_covers():
    generator = np.random.default_rng(1)
    found = [interval(generator.random(300) < 0.8, "x", 0.5) for _ in range(200)]
    assert 0.9 < np.mean([s.low <= 0.8 <= s.high for s in found]) < 0.99
    with pytest.raises(ArgumentError, match="no pictures that apply"):
        interval(np.zeros(0, bool), "x", 0.5)


def test_ties_are_wrong():
    world = ShapesWorld(1 << 30, seed=SEED, split="val")

    class Blind(Oracle):
        def embed_texts(self, texts):
            return torch.ones(len(texts), len(self.seen))

    assert all(s.value == 0 for s in binding(Blind([(world, 256)]), world, 64))


def test_towers_are_the_model(tmp_path):
    """The fast path gives transformers' own embeddings."""
    folder = random_clip(tmp_path / "clip")
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    items = ShapesWorld(5, seed=1)[:]
    texts = [i.caption for i in items]
    words = tokenizer(texts, padding=True, return_tensors="pt")
    from transformers import AutoImageProcessor

    pixels = AutoImageProcessor.from_pretrained(folder)([i.pil for i in items], return_tensors="pt")
    with torch.no_grad():
        out = model(**words, **pixels)
    towers = load_towers(folder)
    torch.testing.assert_close(towers.embed_texts(texts), out.text_embeds, atol=1e-5, rtol=1e-4)
    found = towers.embed_pictures(np.stack([i.image for i in items]))
    torch.testing.assert_close(found, out.image_embeds, atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="no CLIP"):
        load_towers(tmp_path / "nowhere")
