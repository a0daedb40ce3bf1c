"""The lens over pictures: CLIP's patches on the shapes world, and the rows of multimodal language models."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens import images_of, lens, picture_map
from mmxai.models import load_model
from mmxai.models.geometry import mask_cells
from mmxai.models.shipped import shipped_models
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


@pytest.fixture(scope="module")
def answers():
    """The shapes LLaVA asked for single words of 40 test pictures: the lens, and where answers are read."""
    if "shapes-llava" not in shipped_models():
        pytest.skip("the shapes LLaVA is not here")
    asked = [
        (item, question)
        for item in ShapesWorld(40, seed=0, split="test")
        for question in item.questions
        if question.kind == "attribute" and " " not in question.answer
    ]
    found = lens(
        load_model("shapes-llava"),
        [{"image": item.pil, "text": question.text} for item, question in asked],
        targets={i: [question.answer] for i, (_, question) in enumerate(asked)},
        batch=32,
    )
    return found, [int(found.of_sample(i)[-1]) for i in range(len(asked))]


def test_the_lens_at_the_last_token_reads_the_answer(answers):
    """Late blocks say it, the first ones do not: it is decided in between."""
    found, last = answers
    right = (found.target_ranks[:, last, 0] == 0).double().mean(1)
    agree = (found.ids[:, last, 0] == found.best[last]).double().mean(1)
    assert len(last) > 25 and right[0] < 0.2 and right[-1] > 0.8
    assert (right[4:] > 0.75).all() and (agree[4:] > 0.9).all()


def test_image_tokens_hand_on_their_colour():
    """Of the words for colours the one of the object that covers a cell: by values through the output matrix,
    not by the states of image tokens, which no next word was ever asked of."""
    if "shapes-llava" not in shipped_models():
        pytest.skip("the shapes LLaVA is not here")
    world = ShapesWorld(40, seed=0, split="test")
    found = lens(
        load_model("shapes-llava"), [{"image": item.pil, "text": "what colour is it ?"} for item in world],
        sites=["text.*.v", "text.*.resid_post"], targets=COLOURS, batch=20, k=1,
    )  # fmt: skip
    rows = found.rows.numpy()
    colour = np.full(len(rows), -1)
    for i, item in enumerate(world):
        cells = np.full((8, 8), -1)
        for mask, thing in zip(item.masks, item.scene.objects, strict=True):
            cells[mask_cells(found.samples[i]["tiles"][0], mask) >= 0.5] = COLOURS.index(thing.colour)
        own = (rows[:, 0] == i) & (rows[:, 2] >= 0)
        colour[own] = cells[rows[own, 2], rows[own, 3]]
    known = colour >= 0
    said = found.target_logprobs.numpy().argmax(2)
    right = {s: (said[i, known] == colour[known]).mean() for i, s in enumerate(found.states)}
    values = max(right[f"text.{b}.v"] for b in range(6))
    assert known.sum() > 100 and values > 0.7
    assert values > max(right[f"text.{b}.resid_post"] for b in range(6)) + 0.2
