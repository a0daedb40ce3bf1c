"""Names of latents: their decoder rows go where any direction goes, and the SAE knows its rows."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.sae import SAE, SAESpec
from mmxai.methods.sae.texts import near_texts
from mmxai.models import load_model
from mmxai.models import near_texts as of_directions
from mmxai.shapes.model import build_tokenizer, new_clip

LAST = "vision.5.resid_post"
TEXTS = ["red", "blue", "a green circle", "square", "left of a star", "yellow"]


@pytest.fixture(scope="module")
def model():
    return load_model(new_clip(seed=3), tokenizer=build_tokenizer())


def sae_of(directions, **fields):
    count, width = directions.shape
    sae = SAE.zeros(SAESpec("topk", count, (LAST,), (width,), k=1, **fields))
    sae.W_dec.copy_(directions)
    return sae


def test_latents_are_named_by_their_decoder_rows(model):
    d = torch.randn(5, 192, generator=torch.Generator().manual_seed(1))
    found = near_texts(sae_of(d), model, TEXTS, [4, 1], number=3, directions=20)
    direct = of_directions.near_texts(model, LAST, d[[4, 1]], TEXTS, [4, 1], number=3, random=20)
    assert found.units == [4, 1] and found.exact
    np.testing.assert_array_equal(found.index, direct.index)
    np.testing.assert_array_equal(found.cosine, direct.cosine)
    np.testing.assert_array_equal(found.null, direct.null)


def test_latents_of_patches_have_no_names(model):
    d = torch.randn(1, 192, generator=torch.Generator().manual_seed(2))
    for tokens, pooled in {"patch": False, "cls,patch": True, None: True}.items():
        identity = {"train": {"config": {"tokens": tokens}}}
        assert near_texts(sae_of(d, identity=identity), model, TEXTS, [0], directions=2).exact == pooled
    for tokens, pooled in ((["patch"], False), (None, True)):
        identity = {"selection": {"tokens": tokens}}
        assert near_texts(sae_of(d, identity=identity), model, TEXTS, [0], directions=2).exact == pooled


def test_refuses(model):
    for wrong in (-1, 2):
        with pytest.raises(ArgumentError, match=rf"got latents \[{wrong}\], expected 0 <= latent < 2"):
            near_texts(sae_of(torch.eye(192)[:2]), model, TEXTS, [0, wrong])
    both = SAE.zeros(SAESpec("topk", 4, (LAST, "vision.4.resid_post"), (192, 192), k=1))
    with pytest.raises(ArgumentError, match="one site"):
        near_texts(both, model, TEXTS, [0])
