"""Ridge paths against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from mmxai.errors import ArgumentError
from mmxai.linalg import FoldedGram, ridge_path

PENALTIES = [1e-3, 1.0, 1e3]


def made(n, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 50
    y = x @ rng.standard_normal((width, 2)) / width + rng.standard_normal((n, 2)) + 3
    return x, y


def moments(x, y, folds=None, **options):
    gram = FoldedGram(x.shape[1], y.shape[1], 1 if folds is None else int(folds.max()) + 1, **options)
    gram.update(torch.from_numpy(x), torch.from_numpy(y), None if folds is None else torch.from_numpy(folds))
    return gram


@pytest.mark.parametrize(("n", "width"), [(200, 20), (20, 60)])
@pytest.mark.parametrize("dual", [False, True])
def test_paths_are_scikit_learns(n, width, dual):
    """More rows than columns and fewer, by columns and by rows: the same probe."""
    x, y = made(n, width)
    folds = np.arange(n) % 3
    gram = moments(x, y, folds, rows=n if dual else None)
    assert gram.dual == (dual and n < width)
    for f in (0, 2):
        coef, intercept = ridge_path(gram.train(f), PENALTIES)
        for i, penalty in enumerate(PENALTIES):
            exact = Ridge(alpha=penalty, solver="svd").fit(x[folds != f], y[folds != f])
            scale = np.abs(exact.coef_).max()
            np.testing.assert_allclose(coef[i].T, exact.coef_, rtol=0, atol=1e-6 * scale)
            np.testing.assert_allclose(
                x @ coef[i].numpy() + intercept[i].numpy(),
                exact.predict(x),
                rtol=0,
                atol=1e-6 * np.abs(y).max(),
            )


def test_no_penalty_is_least_squares():
    x, y = made(200, 20)
    coef, intercept = ridge_path(moments(x, y).total(), [0])
    exact = LinearRegression().fit(x, y)
    np.testing.assert_allclose(coef[0].T, exact.coef_, atol=1e-9)
    np.testing.assert_allclose(intercept[0], exact.intercept_, atol=1e-7)


def test_the_state_is_left_as_it_was():
    x, y = made(50, 5)
    state = moments(x, y).total()
    before = state.xx.clone(), state.xy.clone()
    one = ridge_path(state, PENALTIES)
    assert torch.equal(state.xx, before[0]) and torch.equal(state.xy, before[1])
    assert torch.equal(ridge_path(state, PENALTIES)[0], one[0])


@pytest.mark.parametrize("penalty", [0, 1e-12])
def test_what_cannot_be_solved_is_said(penalty):
    x, y = made(50, 5)
    x[:, 3] = x[:, 1] * 2
    with pytest.raises(ArgumentError, match="larger penalty"):
        ridge_path(moments(x, y).total(), [penalty])
    ridge_path(moments(x, y).total(), [1e-3])


def test_a_dead_column_is_no_matter():
    x, y = made(50, 5)
    x[:, 2] = 7
    x[:, 4] *= 1e6
    coef, _ = ridge_path(moments(x, y).total(), [1e-2])
    assert torch.equal(coef[0, 2], torch.zeros(2, dtype=torch.float64))
    exact = Ridge(alpha=1e-2, solver="svd").fit(x, y).coef_.T
    np.testing.assert_allclose(coef[0, [0, 1, 3]], exact[[0, 1, 3]], rtol=1e-5)


@pytest.mark.parametrize("penalties", [[], [-1.0], [1.0, float("nan")], [float("inf")]])
def test_bad_penalties(penalties):
    x, y = made(50, 5)
    with pytest.raises(ArgumentError, match="penalties"):
        ridge_path(moments(x, y).total(), penalties)
