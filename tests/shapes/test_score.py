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
    """Within ten standard deviations of guessing: its guesses on one sentence are not independent."""
    for score in scores(Towers(new_clip()), "val", pictures=256):
        spread = (score.chance * (1 - score.chance) / score.n) ** 0.5
        assert abs(score.value - score.chance) < 10 * spread, score
        assert score.low <= score.value <= score.high and score.n > 30


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_the_interval_covers(share):
    generator = np.random.default_rng(1)
    found = [interval(generator.random(300) < share, "x", 0.5) for _ in range(500)]
    assert 0.92 < np.mean([s.low <= share <= s.high for s in found]) < 0.98


def test_the_interval_of_nothing_but_right_ones():
    sure = interval(np.ones(2048, bool), "x", 0.5)
    assert sure.value == sure.high == 1 and 0.997 < sure.low < 0.999
    with pytest.raises(ArgumentError, match="no pictures that apply"):
        interval(np.zeros(0, bool), "x", 0.5)


@pytest.mark.parametrize("split", ["test", "compositional"])
def test_text_alone_does_not_tell_true_from_false(split):
    """To reject what names a pair never trained on, without looking, gains nothing."""
    world = ShapesWorld(1 << 30, seed=SEED, split=split)

    class Censor(Oracle):
        def embed_texts(self, texts):
            sign = torch.tensor([-1.0 if parse(t).held_out else 1.0 for t in texts])
            return sign[:, None].expand(-1, len(self.seen))

    found = binding(Censor([(world, 512)]), world, 256)
    assert all(s.value == 0 and s.n > 20 for s in found), found  # all ties


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
