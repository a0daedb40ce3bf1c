"""Closed-form probes from moments against scikit-learn's fitted to the rows."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.neighbors import NearestCentroid

from mmxai.linalg import FoldedGram, ridge_path
from mmxai.methods.probe.closed import lda, mean_difference, ridge_classifier, ridge_regression

PENALTIES = (0.1, 10.0, 1000.0)
CLASSES = slice(0, 10)
LABELS = slice(10, 13)
NUMBER = slice(13, 14)


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits, of which even, loop and small are labels and the ink is a number. (x, y, digit)"""
    x, digit = load_digits(return_X_y=True)
    even, loop, small = digit % 2 == 0, np.isin(digit, (0, 6, 8, 9)), digit < 5
    ink = x[:, 20:40].sum(1, keepdims=True) / 10 + np.random.default_rng(0).standard_normal((len(x), 1))
    return x, np.concatenate([np.eye(10)[digit], np.stack([even, loop, small], 1), ink], 1), digit


@pytest.fixture(scope="module", params=["many", "few"])
def fold(request, digits):
    """Moments of rows less those of a fold, those rows, and which they are: more than columns, and fewer."""
    x, y, digit = digits
    if request.param == "few":
        # Of each digit some: scikit-learn knows of no other classes.
        x, y, digit = (v[:60] for v in digits)
    folds = np.arange(len(x)) % 5
    gram = FoldedGram(x.shape[1], y.shape[1], 5, rows=len(x))
    for start in range(0, len(x), 500):
        part = slice(start, start + 500)
        gram.update(*(torch.from_numpy(v[part]) for v in (x, y, folds)))
    assert gram.dual == (request.param == "few")
    state = gram.train(2)
    kept = folds != 2
    return state, ridge_path(state, PENALTIES), x[kept], y[kept], digit[kept]


class Scatter(BaseEstimator):
    """Covariance of a class for scikit-learn's LDA: its own, and its part of a penalty on that of all."""

    def __init__(self, penalty, rows):
        self.penalty, self.rows = penalty, rows

    def fit(self, x):
        self.covariance_ = np.cov(x.T, bias=True) + self.penalty / self.rows * np.eye(x.shape[1])
        return self


def applied(linear, i, x):
    return x @ linear.coef[i].numpy() + linear.intercept[i].numpy()


def test_ridge_classifier(fold):
    _, path, x, y, digit = fold
    for i, penalty in enumerate(PENALTIES):
        exact = RidgeClassifier(alpha=penalty, solver="svd").fit(x, digit)
        made = ridge_classifier(path, CLASSES)
        np.testing.assert_allclose(made.coef[i].T, exact.coef_, atol=1e-9)
        np.testing.assert_allclose(made.intercept[i], exact.intercept_, atol=1e-8)
        exact = RidgeClassifier(alpha=penalty, solver="svd").fit(x, y[:, LABELS])
        made = ridge_classifier(path, LABELS)
        np.testing.assert_allclose(made.coef[i].T, exact.coef_, atol=1e-9)
        np.testing.assert_allclose(made.intercept[i], exact.intercept_, atol=1e-8)


def test_ridge_regression(fold):
    _, path, x, y, _ = fold
    made = ridge_regression(path, NUMBER)
    for i, penalty in enumerate(PENALTIES):
        exact = Ridge(alpha=penalty, solver="svd").fit(x, y[:, NUMBER])
        np.testing.assert_allclose(applied(made, i, x), exact.predict(x).reshape(-1, 1), atol=1e-8)


def test_lda(fold):
    state, path, x, y, digit = fold
    made, labels = lda(state, path, CLASSES), lda(state, path, LABELS, exclusive=False)
    for i, penalty in enumerate(PENALTIES):
        options = dict(solver="lsqr", covariance_estimator=Scatter(penalty, len(x)))
        exact = LinearDiscriminantAnalysis(**options).fit(x, digit)
        # Up to a constant of each row, in which posteriors do not differ.
        np.testing.assert_allclose(
            *(s - s.mean(1, keepdims=True) for s in (applied(made, i, x), exact.decision_function(x))),
            rtol=1e-6,
            atol=1e-5,
        )
        for k in range(3):
            exact = LinearDiscriminantAnalysis(**options).fit(x, y[:, LABELS][:, k])
            log_odds = applied(labels, i, x)[:, k]
            np.testing.assert_allclose(log_odds, exact.decision_function(x), rtol=1e-6, atol=1e-5)


def test_shrinkage_is_a_penalty(digits):
    """The penalty that the docstring names, and a covariance 1 / (1 - s) times ours, are shrinkage s."""
    x, y, digit = digits
    gram = FoldedGram(x.shape[1], 10)
    gram.update(torch.from_numpy(x), torch.from_numpy(y[:, CLASSES]))
    s = 0.2
    means = np.stack([x[digit == c].mean(0) for c in range(10)])
    within = np.square(x - means[digit]).mean()
    state = gram.total()
    made = lda(state, ridge_path(state, [len(x) * s * within / (1 - s)]))
    exact = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s).fit(x, digit)
    prior = np.log(np.bincount(digit) / len(digit))
    ours = (applied(made, 0, x) - prior) / (1 - s) + prior
    np.testing.assert_allclose(
        *(v - v.mean(1, keepdims=True) for v in (ours, exact.decision_function(x))), atol=1e-7
    )


def test_mean_difference(fold):
    state, _, x, y, digit = fold
    made = mean_difference(state, CLASSES)
    exact = NearestCentroid(priors="uniform").fit(x, digit)
    distances = -((x[:, None] - exact.centroids_) ** 2).sum(2) / 2
    np.testing.assert_allclose(softmax(applied(made, 0, x), 1), softmax(distances, 1), atol=1e-7)
    labels = mean_difference(state, LABELS, exclusive=False)
    for k in range(3):
        there = y[:, LABELS][:, k] == 1
        one, none = x[there].mean(0), x[~there].mean(0)
        np.testing.assert_allclose(labels.coef[0, :, k], one - none, atol=1e-9)
        np.testing.assert_allclose(applied(labels, 0, ((one + none) / 2)[None])[0, k], 0, atol=1e-7)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("absent", ["none", "all"])
def test_a_class_that_never_occurs_is_never_chosen(digits, exclusive, absent):
    x, *_ = digits
    y = np.eye(3)[np.arange(len(x)) % 2]
    if not exclusive:
        y[:, 2] = absent == "all"
    gram = FoldedGram(x.shape[1], 3)
    gram.update(torch.from_numpy(x), torch.from_numpy(y))
    state = gram.total()
    path = ridge_path(state, [1.0])
    for made in (lda(state, path, exclusive=exclusive), mean_difference(state, exclusive=exclusive)):
        scores = applied(made, 0, x)
        assert not np.isnan(scores).any()
        if exclusive:
            assert set(scores.argmax(1)) == {0, 1}
        else:
            assert (expit(scores[:, 2]) == (absent == "all")).all()


def test_directions_are_those_planted():
    """Classes apart along one direction, in noise that is loud along another: LDA looks past that, and ridge
    with it; the difference of means is the direction itself."""
    rng = np.random.default_rng(0)
    planted, loud = np.eye(16)[0], (np.eye(16)[0] + np.eye(16)[1]) / 2**0.5
    label = rng.integers(0, 2, 20_000)
    x = (
        rng.standard_normal((20_000, 16))
        + 6 * rng.standard_normal((20_000, 1)) * loud
        + 2 * label[:, None] * planted
    )
    gram = FoldedGram(16, 1)
    gram.update(torch.from_numpy(x), torch.from_numpy(label[:, None].astype(float)))
    state = gram.total()
    path = ridge_path(state, [1e-6])

    def direction(made):
        w = made.coef[0, :, 0].numpy()
        return w / np.linalg.norm(w)

    best = np.linalg.solve(np.eye(16) + 36 * np.outer(loud, loud), planted)
    best /= np.linalg.norm(best)
    assert direction(lda(state, path, exclusive=False)) @ best > 0.999
    assert direction(ridge_classifier(path)) @ best > 0.999
    assert direction(mean_difference(state, exclusive=False)) @ planted > 0.99 > best @ planted
