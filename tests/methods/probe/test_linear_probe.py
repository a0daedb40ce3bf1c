"""`LinearProbe` as an estimator: scikit-learn's checks, its probes as rivals, how a penalty is chosen."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mmxai
from mmxai import LinearProbe
from mmxai.errors import ArgumentError

METHODS = ["ridge", "lda", "mean_difference", "logistic", "ridge_regression"]
CLASSIFIERS = METHODS[:4]
TIES = {
    "check_classifier_multioutput": "ranks scores of rows of counts, two of them equal but for rounding; "
    "probabilities round once more, and tie"
}


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return StandardScaler().fit_transform(x), y


@pytest.mark.parametrize("method", METHODS)
def test_scikit_learns_checks(method):
    expected = TIES if method == "mean_difference" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(LinearProbe(method), expected_failed_checks=expected, on_fail=None)
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) >= 50


def test_it_is_what_its_method_says(digits):
    for method in METHODS:
        probe = LinearProbe(method)
        assert is_regressor(probe) == (method == "ridge_regression") == (not is_classifier(probe))
        assert hasattr(probe, "predict_proba") == is_classifier(probe) == hasattr(probe, "decision_function")
    assert mmxai.LinearProbe is LinearProbe
    assert clone(LinearProbe("lda", penalty=(1, 2))).get_params()["penalty"] == (1, 2)


@pytest.mark.parametrize("classes", [10, 2])
def test_ridge_is_scikit_learns(digits, classes):
    x, y = (v[digits[1] < classes] for v in digits)
    ours, theirs = LinearProbe(penalty=3.0).fit(x, y), RidgeClassifier(alpha=3.0, solver="svd").fit(x, y)
    np.testing.assert_allclose(ours.coef_, np.atleast_2d(theirs.coef_), atol=1e-10)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-10)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-9)
    assert ours.score(x, y) == theirs.score(x, y)


@pytest.mark.parametrize("shape", ["one", "several"])
def test_ridge_regression_is_scikit_learns(shape):
    x, y = load_diabetes(return_X_y=True)
    y = y if shape == "one" else np.stack([y, y**0.5], 1)
    ours, theirs = (
        LinearProbe("ridge_regression", penalty=0.1).fit(x, y),
        Ridge(alpha=0.1, solver="svd").fit(x, y),
    )
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-9)
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y))


@pytest.mark.parametrize("classes", [10, 2])
def test_logistic_is_scikit_learns(digits, classes):
    x, y = (v[digits[1] < classes] for v in digits)
    ours = LinearProbe("logistic", penalty=10.0, tolerance=1e-7).fit(x, y)
    theirs = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=2e-3)
    assert ours.coef_.shape == theirs.coef_.shape


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_several_labels_a_row(digits, method):
    x, y = digits
    labels = np.stack([y % 2 == 0, np.isin(y, (0, 6, 8, 9)), y < 5], 1).astype(int)
    probe = LinearProbe(method, penalty=10.0).fit(x[:1200], labels[:1200])
    probabilities = probe.predict_proba(x[1200:])
    assert probabilities.shape == (len(x) - 1200, 3)
    assert ((probabilities > 0.5) == probe.predict(x[1200:])).all()
    assert (probe.predict(x[1200:]) == labels[1200:]).mean() > (0.7 if method == "mean_difference" else 0.85)
    alone = LinearProbe(method, penalty=10.0).fit(x[:1200], labels[:1200, 1])
    np.testing.assert_allclose(
        probe.decision_function(x)[:, 1], alone.decision_function(x), atol=0.05, rtol=0.01
    )


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_probabilities_are_better_than_none(digits, method):
    """Of rows not seen: log loss below that of the classes' frequencies, whatever the scale of the scores."""
    x, y = digits
    probe = LinearProbe(method, penalty=100.0).fit(x[:1000], y[:1000])
    assert log_loss(y[1000:], probe.predict_proba(x[1000:])) < (1.0 if method == "mean_difference" else 0.75)
    one_by_one = np.concatenate([probe.predict_proba(row[None]) for row in x[:5]])
    np.testing.assert_allclose(one_by_one, probe.predict_proba(x[:5]), rtol=1e-9)


def test_scores_become_probabilities_with_the_least_loss(digits):
    x, y = digits
    probe = LinearProbe(penalty=10.0).fit(x, y)
    best = log_loss(y, probe.predict_proba(x))
    for factor in (0.9, 1.1):
        other = clone(probe).fit(x, y)
        other.temperature_ = probe.temperature_ * factor
        assert log_loss(y, other.predict_proba(x)) > best


@pytest.mark.parametrize("method", ["ridge", "lda", "logistic", "ridge_regression"])
def test_the_penalty_is_chosen_as_a_grid_search_would(digits, method):
    x, y = (v[:300] for v in digits)
    penalties = (0.01, 1.0, 100.0, 1e4)
    splitter = StratifiedKFold(4) if method != "ridge_regression" else 4
    probe = LinearProbe(method, penalty=penalties, folds=4).fit(x, y)
    if method == "ridge_regression":
        made = np.empty((4, len(y)))
        for i, p in enumerate(penalties):
            made[i] = cross_val_predict(LinearProbe(method, penalty=p), x, y, cv=splitter)
        exact = 1 - np.square(made - y).sum(1) / np.square(y - y.mean()).sum()
    else:
        exact = [
            np.average(
                cross_val_score(LinearProbe(method, penalty=p), x, y, cv=splitter),
                weights=[len(held) for _, held in splitter.split(x, y)],
            )
            for p in penalties
        ]
    np.testing.assert_allclose(probe.cv_scores_, exact, atol=1e-9 if method != "logistic" else 0.005)
    best = np.flatnonzero(probe.cv_scores_ == probe.cv_scores_.max())
    assert probe.penalty_ == penalties[best[-1]]  # the largest of equals
    again = LinearProbe(method, penalty=probe.penalty_).fit(x, y)
    np.testing.assert_allclose(again.predict(x), probe.predict(x), rtol=1e-8)


def test_groups_are_not_parted(digits):
    """Rows of a sample are near copies with one label: parted, learning by heart looks like skill."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((40, 200))
    sample = np.repeat(np.arange(40), 5)
    x = centre[sample] + 0.05 * rng.standard_normal((200, 200))
    y = rng.integers(0, 2, 40)[sample]
    mixed = rng.permutation(200)
    x, y, sample = x[mixed], y[mixed], sample[mixed]
    penalties = (0.1, 1.0)
    parted = LinearProbe(penalty=penalties, folds=5).fit(x, y)
    whole = LinearProbe(penalty=penalties, folds=5).fit(x, y, groups=sample)
    assert parted.cv_scores_.max() > 0.9
    assert whole.cv_scores_.max() < 0.7


def test_tensors_of_any_type(digits):
    x, y = digits
    exact = LinearProbe(penalty=10.0).fit(x, y).predict(x)
    for dtype, least in ((torch.float32, 1.0), (torch.bfloat16, 0.99), (torch.float16, 0.995)):
        rows, labels = torch.from_numpy(x).to(dtype), torch.from_numpy(y)
        probe = LinearProbe(penalty=10.0).fit(rows, labels)
        assert (probe.predict(rows) == exact).mean() >= least


def test_in_a_pipeline_and_a_search(digits):
    x, y = digits
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearProbe()), {"linearprobe__penalty": [1.0, 100.0]}, cv=3
    )
    assert search.fit(x, y).best_score_ > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="svm"), "expected one of"),
        (dict(penalty=-1.0), "at least 0"),
        (dict(penalty=()), "one or more"),
        (dict(penalty=(1.0, 2.0), folds=1), "at least 2"),
        (dict(method="logistic", penalty=0.0), "above 0"),
    ],
)
def test_bad_options(digits, options, message):
    x, y = digits
    with pytest.raises(ArgumentError, match=message):
        LinearProbe(**options).fit(x[:100], y[:100])


def test_one_class_is_none(digits):
    x, _ = digits
    with pytest.raises(ArgumentError, match="one class"):
        LinearProbe().fit(x[:10], np.zeros(10))


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_label_that_no_row_has_changes_no_other(method):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 6))
    y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], 1).astype(int)
    alone = LinearProbe(method).fit(x, y).predict_proba(x)
    beside = LinearProbe(method).fit(x, np.column_stack([y, np.zeros(300, int)])).predict_proba(x)
    assert np.abs(beside[:, :2] - alone).max() < 0.05 and beside[:, 2].max() < 0.05


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_all_alike():
    """Every penalty is as good: the largest of equals."""
    x = np.random.default_rng(0).standard_normal((50, 4))
    probe = LinearProbe("ridge_regression", penalty=(0.1, 10.0, 1.0)).fit(x, np.full(50, 3.0))
    assert probe.penalty_ == 10 and np.isfinite(probe.cv_scores_).all()
