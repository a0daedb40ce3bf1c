"""LEACE against its formula written out with scipy, other erasures and logistic probes; as an edit."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import LogisticRegression

import mmxai
from mmxai.errors import ArgumentError
from mmxai.linalg import FoldedGram
from mmxai.linalg.leace import Leace, leace

WIDTH, CLASSES = 12, 3


@pytest.fixture
def planted():
    """Rows that hold a colour of three and, apart from it, a size of two; columns of both."""
    rng = np.random.default_rng(0)
    n = 3000
    colour, size = rng.integers(0, CLASSES, n), rng.integers(0, 2, n)
    directions = rng.standard_normal((CLASSES + 2, WIDTH))
    noise = rng.standard_normal((n, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH)) * 0.4
    x = noise + 2 * directions[colour] + 2 * directions[CLASSES + size] + 5
    y = np.concatenate([np.eye(CLASSES)[colour], np.eye(2)[size]], 1)
    return x, y, colour, size


def state(x, y):
    gram = FoldedGram(x.shape[1], y.shape[1])
    gram.update(torch.from_numpy(x), torch.from_numpy(y))
    return gram.total()


def accuracy(x, labels):
    return LogisticRegression(max_iter=1000).fit(x, labels).score(x, labels)


def test_it_is_the_papers_formula(planted):
    x, y, *_ = planted
    eraser = leace(state(x, y), slice(0, CLASSES))
    covariance = np.cov(x.T, bias=True)
    shared = (x - x.mean(0)).T @ (y[:, :CLASSES] - y[:, :CLASSES].mean(0)) / len(x)
    whiten = np.linalg.pinv(scipy.linalg.sqrtm(covariance))
    basis = scipy.linalg.orth(whiten @ shared, rcond=1e-8)
    exact = np.eye(WIDTH) - np.linalg.pinv(whiten) @ basis @ basis.T @ whiten
    np.testing.assert_allclose(eraser.projection, exact, atol=1e-8)
    np.testing.assert_allclose(eraser.projection @ eraser.projection, exact, atol=1e-8)
    assert eraser.rank == CLASSES - 1
    erased = eraser(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(erased, (x - x.mean(0)) @ exact.T + x.mean(0), atol=1e-8)


def test_the_concept_goes_and_its_neighbour_stays(planted):
    x, y, colour, size = planted
    erased = leace(state(x, y), slice(0, CLASSES))(torch.from_numpy(x)).numpy()
    assert accuracy(x, colour) > 0.95
    assert accuracy(erased, colour) < np.bincount(colour).max() / len(colour) + 0.02
    assert accuracy(erased, size) > 0.95
    assert np.abs(np.cov(erased.T, y[:, :CLASSES].T)[:WIDTH, WIDTH:]).max() < 1e-10


def test_no_other_erasure_changes_less(planted):
    """Of random affine maps with no covariance left, and of the orthogonal projection."""
    x, y, *_ = planted
    moments = state(x, y)
    shared = moments.xy[:, :CLASSES].numpy()
    centred = x - x.mean(0)

    def change(map_):
        return float(np.square(centred @ (map_ - np.eye(WIDTH)).T).sum(1).mean())

    basis = scipy.linalg.orth(shared, rcond=1e-8)
    free = np.eye(WIDTH) - basis @ basis.T  # M @ free takes nothing from the concept's directions
    best = leace(moments, slice(0, CLASSES)).projection.numpy()
    least = change(best)
    assert least < change(free)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-1):
        other = best + size * rng.standard_normal((WIDTH, WIDTH)) @ free
        np.testing.assert_allclose(other @ shared, 0, atol=1e-7)
        assert change(other) > least


@pytest.mark.parametrize("rows", [None, 10])
def test_columns_without_variance_and_few_rows(planted, rows):
    x, y, *_ = (v[: rows or 500] for v in planted)
    x = np.concatenate([x, x[:, :1] * 3, np.full((len(x), 1), 7.0)], 1)
    gram = FoldedGram(x.shape[1], y.shape[1], rows=len(x))
    gram.update(torch.from_numpy(x), torch.from_numpy(y))
    assert gram.dual == (rows is not None)
    erased = leace(gram.total(), slice(0, CLASSES))(torch.from_numpy(x)).numpy()
    assert np.abs(np.cov(erased.T, y[:, :CLASSES].T)[: x.shape[1], x.shape[1] :]).max() < 1e-7
    np.testing.assert_allclose(erased[:, -1], 7.0)


def test_types_shapes_and_files(planted):
    x, y, *_ = planted
    eraser = leace(state(x, y), [0])
    assert eraser.rank == 1
    tokens = torch.from_numpy(x[:6]).reshape(2, 3, WIDTH)
    wide = eraser(tokens)
    for dtype, atol in ((torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.05)):
        out = eraser(tokens.to(dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), wide, atol=atol, rtol=0)
    assert torch.equal(Leace(**eraser.tensors())(tokens), wide)
    with pytest.raises(ArgumentError, match="columns"):
        leace(state(x, y), [])


def test_it_is_an_edit_of_a_model(planted):
    x, y, *_ = planted
    eraser = leace(state(x, y), slice(0, CLASSES))
    network = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 4))
    torch.nn.init.eye_(network[0].weight)
    torch.nn.init.zeros_(network[0].bias)
    rows = torch.from_numpy(x[:8]).float()
    model = mmxai.wrap(network, example=rows)
    run = model.run(rows, edit={"module:0": eraser}, capture=["module:0"])
    torch.testing.assert_close(run.acts["module:0"][:, 0], eraser(rows), atol=1e-4, rtol=0)
