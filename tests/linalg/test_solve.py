"""Ridge paths against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg import FoldedGram, ridge_path
from mmxai.linalg.solve import _Single

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


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("hidden", [False, True])
def test_float32_is_taken_only_where_it_can_be_refined(condition, hidden):
    """float64's accuracy at every condition; hidden: of two nearly equal columns, not of their sizes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 30))
    if hidden:
        x[:, 7] = x[:, 3] + x[:, 7] / condition
    else:
        x *= np.geomspace(1, 1 / condition, 30)
    x -= x.mean(0)
    weights = rng.standard_normal((30, 2)) * (1 if hidden else np.geomspace(1, condition, 30)[:, None])
    y = x @ weights + [[1e-12, 1e12]] * rng.standard_normal((300, 2))
    coef, _ = ridge_path(moments(x, y).total(), [1e-9, 1.0])
    for i, penalty in enumerate((1e-9, 1.0)):
        exact = np.linalg.lstsq(
            np.concatenate([x, penalty**0.5 * np.eye(30)]), np.concatenate([y - y.mean(0), np.zeros((30, 2))])
        )[0]
        off = np.linalg.norm(x @ (coef[i].numpy() - exact), axis=0) / np.linalg.norm(x @ exact, axis=0)
        assert off.max() < max(1e-9, 1e-14 * condition**2 if hidden else 0)


def single(state, accuracy=1e-11):
    return _Single(state.xx.numpy(), state.xy.numpy(), accuracy)


def test_both_ways_are_taken():
    x, y = made(400, 30)
    state = moments(x / x.std(0), y).total()
    spread = np.linalg.eigvalsh(state.xx.numpy())[-1]
    assert single(state).solve(spread) is not None
    x[:, 3] = x[:, 4]
    assert single(moments(x, y).total()).solve(1e-6) is None


def test_what_is_accurate_enough_is_not_refined(monkeypatch):
    """The smallest penalty tells: where float32 alone does for it, it does for all; else all are refined."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 60)) * np.geomspace(1, 0.1, 60)
    state = moments(x, x @ rng.standard_normal((60, 2)) + rng.standard_normal((500, 2))).total()
    penalties = [1e3, 1e-3, 1.0, 1e1]
    exact, _ = ridge_path(state, penalties)
    refined, inner = [], _Single._refined
    monkeypatch.setattr(_Single, "_refined", lambda self, *a: refined.append(a[2]) or inner(self, *a))

    def off(accuracy):
        refined.clear()
        coef, _ = ridge_path(state, penalties, accuracy=accuracy)
        return float(((coef - exact).norm(dim=1) / exact.norm(dim=1)).max())

    assert 1e-9 < off(1e-5) < 1e-5 and refined == [1e-3]
    assert off(1e-8) < 1e-8 and refined == sorted(penalties)


@pytest.mark.parametrize("share", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_what_float32_products_cost(share, decay):
    """Off by some 1e-7 D / share at most, however fast the variances fall and large the offset."""
    rng = np.random.default_rng(0)
    n, width = 6000, 128
    mixing = np.linalg.qr(rng.standard_normal((width, width)))[0] * np.arange(1.0, width + 1) ** -decay
    x = rng.standard_normal((n, width)) @ mixing.T + 20 * rng.standard_normal(width)
    y = (x - x.mean(0)) @ rng.standard_normal((width, 2)) + rng.standard_normal((n, 2))
    x = x.astype(np.float32)
    folds = np.arange(n) % 5
    wide, single = (moments(x, y, folds, product=p).train(1) for p in ("float64", "float32"))
    penalty = share * float(wide.xx.diagonal().mean())
    (exact, _), (coef, _) = (ridge_path(state, [penalty]) for state in (wide, single))
    off = float(((coef - exact).norm(dim=1) / exact.norm(dim=1)).max())
    assert 0 < off < (1e-7 * width / share if decay else 1e-6)


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


@pytest.mark.filterwarnings("ignore:overflow")
def test_products_that_leave_their_range_are_refused():
    """Not solved to zeros."""
    x, y = made(50, 8)
    state = moments((1e20 * x).astype(np.float32), y, product="float32").total()
    with pytest.raises(NonFiniteError, match="fit their type"):
        ridge_path(state, [1.0])
