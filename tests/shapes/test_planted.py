"""The planted network's units are what they are named after, cell by cell."""

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

import mmxai
from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.planted import UNDECIDED, PlantedNet, pixels, pixels_of

SHAPES = [("circle", "top left"), ("star", "centre"), ("moon", "bottom right"), ("square", "left")]
BOTH = [("red", "circle", "top left"), ("blue", "star", "centre"), ("pink", "moon", "bottom right")]


@pytest.fixture(scope="module")
def answered():
    torch.manual_seed(0)
    net = PlantedNet(SHAPES, BOTH, noise=4)
    batch = ShapesWorld(2000, seed=9).batch(range(2000), texts=0)
    maps = torch.cat([net(part) for part in pixels(batch).split(100)])
    return net, batch, maps.numpy(), net.truth(batch)


def test_units_equal_the_truth_in_every_decided_cell(answered):
    net, _, maps, truth = answered
    for unit, name in enumerate(net.names):
        known = truth[:, unit] != UNDECIDED
        assert np.array_equal(maps[:, unit][known], truth[:, unit][known]), name


def test_most_cells_are_decided_and_every_unit_speaks(answered):
    maps, truth = answered[2:]
    concepts = truth[:, :-4]
    assert (concepts != UNDECIDED).mean() > 0.95
    assert (concepts[:, :8] == 1).sum((0, 2, 3)).min() > 300
    assert (concepts[:, 8:12] == 1).sum((0, 2, 3)).min() > 3
    assert set(np.unique(maps[:, :-4])) == {0.0, 1.0}


def test_colour_maps_against_the_label_maps(answered):
    """Plainly: a cell wholly of one colour answers to it and to no other; a cell far from it does not."""
    _, batch, maps, _ = answered
    cells = batch.labels["colour"].reshape(-1, 8, 8, 8, 8).swapaxes(2, 3).reshape(-1, 8, 8, 64)
    full = (cells == cells[..., :1]).all(-1) & (cells[..., 0] > 0)
    n, y, x = np.nonzero(full)
    assert len(n) > 300 and (maps[n, cells[n, y, x, 0] - 1, y, x] == 1).all()
    assert (maps[n, :8, y, x].sum(1) == 1).all()
    empty = (max_pool2d(torch.from_numpy(batch.owners > 0).float()[:, None], 3, 1, 1)[:, 0] == 0).numpy()
    n, y, x = np.nonzero(empty.reshape(-1, 8, 8, 8, 8).swapaxes(2, 3).all((3, 4)))
    assert len(n) > 300 and (maps[n, :8, y, x] == 0).all()


def test_noise_units_tell_nothing(answered):
    _, batch, maps, _ = answered
    noise = maps[:, -4:]
    assert noise.min() >= 0 and noise.max() < 1 and abs(noise.mean() - 0.5) < 0.01
    concepts = batch.concepts[:, batch.concepts.sum(0) > 50].astype(float)
    flat = noise.reshape(len(noise), -1)
    both = np.corrcoef(flat.T, concepts.T)
    across = both[: flat.shape[1], flat.shape[1] :]
    # 256 x 90 correlations of independent columns over 2,000 pictures: the largest is near 4.4 / sqrt(2000).
    assert np.abs(across).max() < 0.12 and abs(across.mean()) < 0.005
    own = both[: flat.shape[1], : flat.shape[1]] - np.eye(flat.shape[1])
    assert np.abs(own).max() < 0.12


def test_it_is_a_network_like_any_other():
    net, world = PlantedNet(), ShapesWorld(6)
    model = mmxai.wrap(net, prepare=pixels_of, example=torch.zeros(1, 3, 64, 64))
    _, batch = model.capture(model.prepare(world[:]), ["module:units"])
    rows = batch["module:units"].reshape(6, 8, 8, len(net.names)).permute(0, 3, 1, 2)
    assert torch.equal(rows, net(pixels(world.batch(range(6), texts=0))))


def test_a_unit_does_not_depend_on_its_batch():
    net, some = PlantedNet(), pixels(ShapesWorld(8).batch(range(8), texts=0))
    assert torch.equal(net(some), torch.cat([net(one) for one in some.split(1)]))


def test_bad_names():
    with pytest.raises(ArgumentError, match="'hexagon'"):
        PlantedNet([("hexagon", "centre")])
    with pytest.raises(ArgumentError, match="colours"):
        PlantedNet(both=[("teal", "star", "centre")])
