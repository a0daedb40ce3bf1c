"""The lens over pictures: CLIP's patches on the shapes world, and the rows of multimodal language models."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens import images_of, lens, picture_map
from mmxai.models import load_model
from mmxai.models.geometry import mask_cells
from mmxai.shapes import ShapesWorld
from mmxai.shapes.scene import ATTRIBUTES
from mmxai.types import TOKEN_CODES
from tests.models import test_llava
from tests.models.contract import shake

COLOURS = list(ATTRIBUTES["colour"])


@pytest.fixture(scope="module")
def seen():
    """The lens on 80 test pictures, and the colour of each patch that an object covers by half (else -1)."""
    world = ShapesWorld(80, seed=0, split="test")
    found = lens(
        load_model("shapes-clip"), [item.pil for item in world], batch=40,
        texts=[f"a {colour} object" for colour in COLOURS], targets=["a red object"],
    )  # fmt: skip
    colour = np.full((80, 8, 8), -1)
    for i, item in enumerate(world):
        tile = found.samples[i]["tiles"][0]
        for mask, thing in zip(item.masks, item.scene.objects, strict=True):
            colour[i][mask_cells(tile, mask) >= 0.5] = COLOURS.index(thing.colour)
    return found, colour


def accuracy(found, colour, state):
    """Share of objects' patches where the text of their colour comes first, and its 95% bootstrap interval
    over pictures."""
    said = np.stack([picture_map(found, i).ids[found.states.index(state)] for i in range(len(colour))])
    own = colour >= 0
    right, count = (own & (said == colour)).sum((1, 2)), own.sum((1, 2))
    draws = np.random.default_rng(0).integers(0, len(colour), (1000, len(colour)))
    low, high = np.quantile(right[draws].sum(1) / count[draws].sum(1), [0.025, 0.975])
    return right.sum() / count.sum(), low, high


def test_values_of_patches_are_called_by_their_colour(seen):
    """Of 8 colours: what attention hands on says which, in late blocks (84% and 79% measured); patches' own
    states, which nothing compares with texts, do not (chance is 12.5%)."""
    found, colour = seen
    assert (colour >= 0).sum() > 250
    for block in (3, 5):
        share, low, high = accuracy(found, colour, f"vision.{block}.v")
        assert share > 0.7 and low > 0.6 and high < 1
    assert accuracy(found, colour, "vision.5.resid_post")[2] < 0.3
    assert accuracy(found, colour, "vision.0.v")[0] < accuracy(found, colour, "vision.3.v")[0] - 0.2


def test_a_map_lies_over_its_picture(seen):
    found, _ = seen
    drawn = picture_map(found, 3)
    assert drawn.size == (64, 64) and drawn.ids.shape == (len(found.states), 8, 8) and drawn.image == 0
    at = found.of_sample(3)
    rows = found.rows[at]
    state = found.states.index("vision.3.v")
    for n in (5, 30, 64):
        y, x = int(rows[n, 2]), int(rows[n, 3])
        assert drawn.ids[state, y, x] == found.ids[state, at[n], 0]
        assert drawn.targets[0, state, y, x] == pytest.approx(
            float(found.target_logprobs[state, at[n], 0].exp())
        )
    pixels = drawn.pixels(drawn.targets[0, state])
    assert pixels.shape == (64, 64) and np.array_equal(pixels[::8, ::8], drawn.targets[0, state])
    with pytest.raises(ArgumentError, match=r"expected one of \[0\]"):
        picture_map(found, 3, 1)
    with pytest.raises(ArgumentError, match="got sample 99"):
        picture_map(found, 99)


def test_a_wide_picture_has_pixels_that_the_model_did_not_see():
    item = ShapesWorld(1, seed=0, split="test")[0]
    wide = item.pil.resize((128, 64))
    found = lens(load_model("shapes-clip"), [wide], texts=["a red object", "a blue object"])
    drawn = picture_map(found, 0)
    pixels = drawn.pixels(drawn.probability[-1])
    assert pixels.shape == (64, 128)
    tile = found.samples[0]["tiles"][0]
    left = np.isnan(pixels[0])
    cells = (np.arange(128) + 0.5) * tile["affine"][0] + tile["affine"][2]
    np.testing.assert_array_equal(left, (cells < 0) | (cells >= 8))


@pytest.fixture(scope="module")
def llava():
    case = test_llava.TestLlava()
    torch.manual_seed(1)
    return load_model(shake(case.make())), case.tensors()


def test_the_last_block_of_a_multimodal_model_gives_its_own_logits(llava):
    model, tensors = llava
    found = lens(model, tensors, targets="next", k=3)
    own = model.run(tensors).out.logits[model.prepare(tensors).rows["text"][..., 4] != TOKEN_CODES["pad"]]
    best = own.float().log_softmax(-1).topk(3)
    torch.testing.assert_close(found.logprobs[-1], best.values, rtol=0, atol=1e-5)
    assert torch.equal(found.ids[-1].long(), best.indices)
    image = found.table.token_type == TOKEN_CODES["image"]
    # What comes behind a picture's cell is another cell, which is no token; behind its last cell a word.
    known = found.targets[:, 0] >= 0
    assert (image & known).sum() == 3 and found.curve("entropy", "image").rows == 48
    drawn = picture_map(found, 2)
    assert drawn.ids.shape == (len(found.states), 4, 4) and (drawn.ids >= 0).all()
    at = found.of_sample(2)
    assert images_of(found, 2) == [0] and int(found.rows[at[9], 1]) == 9
    assert drawn.ids[-1, 1, 1] == found.ids[-1, at[9], 0]
    with pytest.raises(ArgumentError, match="no tile is known"):
        drawn.pixels(drawn.entropy)


def test_what_a_model_says_is_looked_at_too(llava):
    model, tensors = llava
    found = lens(model, tensors, generate=2)
    said = found.table.token_type == TOKEN_CODES["generated"]
    _, spoken = model.continued(tensors, 2)
    assert said.sum() == sum(len(ids) for ids in spoken.ids) > 0
    assert found.curve("kl", "generated").rows == int(said.sum())
    # What the last block says at the row in front of a generated token is that token.
    for n in torch.nonzero(said)[:, 0].tolist():
        assert int(found.best[n - 1]) == int(found.rows[n, 5])
