"""Nearest texts: the path against the model itself, planted directions, and what random ones reach."""

import json

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.models import load_model
from mmxai.models.near_texts import JointPath, embed_texts, near_texts, phrases
from mmxai.shapes import ShapesWorld
from mmxai.shapes.model import build_tokenizer, new_clip
from mmxai.shapes.scene import COLOURS, SHAPES

LAST = "vision.5.resid_post"
TEXTS = ["red", "blue", "a green circle", "square", "left of a star", "yellow", "big", "small triangle"]


@pytest.fixture(scope="module")
def model():
    clip = new_clip(seed=3)
    with torch.no_grad():  # a fresh norm's gain is 1 everywhere, which would hide one that is left out
        clip.vision_model.post_layernorm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    return load_model(clip, tokenizer=build_tokenizer())


def test_the_path_is_what_the_model_does_with_a_direction(model):
    """A little of d added to the last residual stream moves the embedding along path(d); d is orthogonal to
    the centred stream, so that the norm's scale stays."""
    image = {"pixel_values": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))}
    run = model.run(image, capture=[LAST, "vision.embeds"])
    stream = run.acts[LAST][0, 0]
    centred = stream - stream.mean()
    d = torch.randn(192, generator=torch.Generator().manual_seed(2))
    d -= d.mean()
    d -= centred * (d @ centred) / (centred @ centred)

    def push(x):
        x = x.clone()
        x[:, 0] += 0.01 * d
        return x

    moved = model.run(image, capture=["vision.embeds"], edit={LAST: push}).acts["vision.embeds"]
    change = (moved - run.acts["vision.embeds"])[0, 0]
    told = JointPath(model, [LAST])(d[None])[0]
    assert torch.cosine_similarity(change, told, dim=0) > 0.9999


def test_a_neuron_goes_through_its_output_matrix_first(model):
    d = torch.randn(5, 768, generator=torch.Generator().manual_seed(4))
    out = model.module.vision_model.encoder.layers[5].mlp.fc2.weight.detach()
    path = JointPath(model, ["vision.5.mlp_post"])
    torch.testing.assert_close(path(d), JointPath(model, [LAST])(d @ out.T))
    assert "output matrix" in path.how and path.exact


def test_only_what_nothing_follows_is_exact(model):
    def exact(site, tokens=None):
        d = torch.ones(1, 192)
        d[0, 0] = 2
        found = near_texts(model, site, d, TEXTS, random=5, tokens=tokens)
        assert ("a guess" in found.how) != found.exact
        return found.exact

    assert exact(LAST)
    assert not exact("vision.5.resid_mid") and not exact("vision.4.resid_post")
    # What becomes of the last block's patches? Nothing: the class token is pooled.
    for tokens, pooled in {"patch": False, "cls,patch": True, "patch,register": False, None: True}.items():
        assert exact(LAST, tokens) == pooled


def test_a_trained_clip_names_known_directions():
    """What the class token of pictures with a colour or shape has more of is named by that word."""
    clip, world = load_model("shapes-clip"), ShapesWorld(512, seed=11, split="test")
    words = [*COLOURS, *SHAPES]
    streams = []
    for start in range(0, 512, 64):
        batch = [world[i].pil for i in range(start, start + 64)]
        streams.append(clip.run(batch, capture=[LAST], stop=True).acts[LAST][:, 0].float())
    stream = torch.cat(streams)
    has = torch.from_numpy(world.batch(range(512), texts=0).concepts)
    columns = [list(world.concept_names).index(word) for word in words]
    directions = torch.stack([stream[has[:, c]].mean(0) - stream[~has[:, c]].mean(0) for c in columns])
    found = near_texts(clip, LAST, directions, words)
    named = [found.of(i)[0].text == word for i, word in enumerate(words)]
    assert found.exact and np.mean(named) >= 0.9  # chance: one of 16


def test_planted_directions_are_named_and_random_ones_are_not(model):
    path = JointPath(model, [LAST])
    embedded = embed_texts(model, TEXTS)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(TEXTS)))
    matrix = path(torch.eye(192))
    planted = (embedded - embedded.mean(0)) @ torch.linalg.pinv(matrix)
    noise = torch.randn(40, 192, generator=torch.Generator().manual_seed(5))
    found = near_texts(model, LAST, torch.cat([planted, noise]), TEXTS, number=3)
    for i, text in enumerate(TEXTS):
        best = found.of(i)[0]
        assert best.text == text and best.cosine > 0.999 and best.beaten == 0
    beaten = [found.of(len(TEXTS) + i)[0].beaten for i in range(40)]
    assert 0.3 < np.mean(beaten) < 0.7  # a random direction is like the others
    assert found.null.shape == (1000,) and (np.diff(found.null) >= 0).all()


def test_results_print_and_save(model, tmp_path):
    d = torch.randn(2, 192, generator=torch.Generator().manual_seed(6))
    found = near_texts(model, LAST, d, TEXTS, [2, 0], number=2, random=50)
    frame = found.to_pandas()
    assert list(frame.unit) == [2, 2, 0, 0] and frame.text[0] == found.of(2)[0].text
    saved = json.loads(found.save(tmp_path / "t.json").read_text())
    assert saved["units"]["2"][0]["text"] == found.of(2)[0].text and len(saved["null"]) == 50
    assert "2 units, 8 texts" in repr(found)
    assert found.plot().get_xlabel()


@pytest.mark.parametrize(
    "site, width, texts, said",
    [
        ("vision.5.mlp_pre", 768, TEXTS, "does not reach the residual stream"),
        ("vision.9.resid_post", 192, TEXTS, "has no site vision.9.resid_post"),
        (LAST, 191, TEXTS, r"got directions \(4, 191\) for 4 units, expected \(4, 192\)"),
        (LAST, 192, ["red", "red"], "at least two texts"),
    ],
)
def test_refuses(model, site, width, texts, said):
    with pytest.raises(ArgumentError, match=said):
        near_texts(model, site, torch.ones(4, width), texts)


def test_phrases_come_from_captions():
    found = phrases(["a red circle left of a blue square", "a red star"], most=100)
    assert found[0] == "red" and {"red circle", "circle left", "blue square", "star"} <= set(found)
    assert not any(f.startswith(("a ", "of ")) or f.endswith((" a", " of")) for f in found)
    world = phrases(item.caption for item in ShapesWorld(50))
    assert {"red", "circle"} <= set(world) and len(phrases(["a b c d e f g"], most=3)) == 3
