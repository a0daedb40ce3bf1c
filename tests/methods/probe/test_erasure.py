"""Colour erased from a vision transformer that knows it: probes find none, shapes stay; live as in stores."""

import numpy as np
import pytest
import torch

import mmxai
from mmxai import LinearProbe
from mmxai.labels.truth import Truth, cell_labels
from mmxai.linalg import FoldedGram
from mmxai.linalg.leace import leace
from mmxai.shapes import ShapesWorld

SITE = "vision.4.resid_post"
TRAIN, TEST = 360, 120


@pytest.fixture(scope="module")
def model():
    return mmxai.load_model("shapes-clip")


@pytest.fixture(scope="module")
def patches(model, tmp_path_factory):
    """Patches that one object covers: rows, their picture, colour and shape."""
    world = ShapesWorld(TRAIN + TEST, seed=5)
    path = tmp_path_factory.mktemp("erasure") / "acts.zarr"
    mmxai.harvest(model, world, sites=[SITE], store=path, stats=False, progress=False, store_dtype="float32")
    truth = Truth.of_world(world)
    with mmxai.open_store(path) as store:
        rows = store[SITE].rows[:]
        grid, labels = cell_labels(truth, store, "vision", rows)
        x = store[SITE][:][torch.from_numpy(grid)].numpy()
        sample = rows.sample.numpy()[grid]
    at, columns = 0, {}
    for name, values in world.label_names.items():
        columns[name] = labels[:, at : at + len(values)]
        at += len(values)
    known = columns["colour"].any(1) & columns["shape"].any(1)
    return x[known], sample[known], columns["colour"][known].argmax(1), columns["shape"][known].argmax(1)


def test_colour_goes_and_shape_stays(patches, model):
    x, sample, colour, shape = patches
    train = sample < TRAIN
    gram = FoldedGram(x.shape[1], colour.max() + 1)
    gram.update(torch.from_numpy(x[train]), torch.from_numpy(np.eye(colour.max() + 1)[colour[train]]))
    eraser = leace(gram.total())
    erased = eraser(torch.from_numpy(x)).numpy()

    def found(rows, target):
        return (
            LinearProbe("logistic", penalty=10.0)
            .fit(rows[train], target[train])
            .score(rows[~train], target[~train])
        )

    before, after = [{n: found(r, t) for n, t in (("colour", colour), ("shape", shape))} for r in (x, erased)]
    most = np.bincount(colour[train]).max() / train.sum()
    print(
        f"before {before}, after {after}, most frequent colour {most:.3f}, rank {eraser.rank} of {x.shape[1]}"
    )
    assert before["colour"] > 0.9
    assert after["colour"] < most + 0.06
    assert after["shape"] > before["shape"] - 0.02


def test_a_live_edit_is_the_same_map(patches, model):
    x, _, colour, _ = patches
    gram = FoldedGram(x.shape[1], colour.max() + 1)
    gram.update(torch.from_numpy(x), torch.from_numpy(np.eye(colour.max() + 1)[colour]))
    eraser = leace(gram.total())
    inputs = model.prepare([ShapesWorld(2, seed=9)[i] for i in range(2)])
    plain = model.run(inputs, capture=[SITE]).acts[SITE]
    with model.intervene({SITE: eraser}):
        edited = model.run(inputs, capture=[SITE]).acts[SITE]
    torch.testing.assert_close(edited, eraser(plain), atol=1e-4, rtol=1e-4)
    assert (edited - plain).norm() > 0.1 * plain.std()
    assert torch.equal(model.run(inputs, capture=[SITE]).acts[SITE], plain)
