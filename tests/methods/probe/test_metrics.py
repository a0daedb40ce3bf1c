"""Figures against scikit-learn, and their resamples against resampling for real."""

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from mmxai.labels import Task
from mmxai.methods.probe.bootstrap import Bootstrap, Estimate
from mmxai.methods.probe.calibration import LogLoss, golden, log_probabilities, temperature
from mmxai.methods.probe.metrics import BINS, of_classes, of_labels, of_numbers, placements, reliability


def task(kind, n):
    return Task("t", kind, "sample", tuple(map(str, range(n))))


@pytest.fixture
def drawn():
    draw = np.random.default_rng(0)
    samples = np.sort(draw.integers(0, 60, 400))
    y = draw.integers(0, 5, 400)
    scores = np.round(draw.normal(size=(400, 5)) + 1.2 * (y[:, None] == np.arange(5)), 1)  # with ties
    return samples, y, scores


def test_classes(drawn):
    samples, y, scores = drawn
    logp = log_probabilities(task("classes", 5), scores, 1.3)
    p = np.exp(logp)
    np.testing.assert_allclose(p.sum(1), 1)
    found = {k: v[0] for k, v in of_classes(scores, logp, y, Bootstrap(samples, 0, 0)).items()}
    answer = scores.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(y, answer),
        "balanced accuracy": sk.balanced_accuracy_score(y, answer),
        "F1": sk.f1_score(y, answer, average="macro"),
        "AUC": np.mean([sk.roc_auc_score(y == k, scores[:, k]) for k in range(5)]),
        "log loss": sk.log_loss(y, p) / np.log(2),
        "ECE": by_hand(p.max(1), answer == y),
    }
    assert found == pytest.approx(expected, rel=1e-9)


def by_hand(confidence, right):
    total = 0.0
    for b in range(BINS):
        own = (confidence >= b / BINS) & ((confidence < (b + 1) / BINS) | (b == BINS - 1))
        if own.any():
            total += own.mean() * abs(right[own].mean() - confidence[own].mean())
    return total


def test_labels(drawn):
    samples, _, scores = drawn
    draw = np.random.default_rng(1)
    y = (scores + draw.normal(size=scores.shape) > 0.8).astype(np.int8)
    logp = log_probabilities(task("multilabel", 5), scores, 0.7)
    p = np.exp(logp)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-0.7 * scores)))
    found = {k: v[0] for k, v in of_labels(scores, logp, y, Bootstrap(samples, 0, 0)).items()}
    said = scores > 0
    each = range(5)
    expected = {
        "accuracy": (said == y).mean(),
        "balanced accuracy": np.mean([sk.balanced_accuracy_score(y[:, k], said[:, k]) for k in each]),
        "F1": sk.f1_score(y, said, average="macro"),
        "AUC": sk.roc_auc_score(y, scores, average="macro"),
        "log loss": sum(sk.log_loss(y[:, k], p[:, k]) for k in each) / np.log(2),
        "ECE": np.mean(
            [by_hand(np.where(said, p, 1 - p)[:, k], (said == y)[:, k]) for k in each]
        ),
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-9)


def test_numbers(drawn):
    samples, y, _ = drawn
    value = 1e6 + y + np.random.default_rng(2).normal(size=len(y))
    said = 1e6 + y
    found = of_numbers(said, value, Bootstrap(samples, 0, 0))
    assert found["R2"][0] == pytest.approx(sk.r2_score(value, said), rel=1e-9)
    assert found["RMSE"][0] == pytest.approx(np.sqrt(sk.mean_squared_error(value, said)), rel=1e-9)


def test_resamples_are_of_whole_samples(drawn):
    """Each resample is what the figures are of the drawn samples' items, all of them each time."""
    samples, y, scores = drawn
    logp = log_probabilities(task("classes", 5), scores)
    boot = Bootstrap(samples, 7, 3)
    found = of_classes(scores, logp, y, boot)
    own = np.unique(samples)
    for b in range(7):
        counts = boot._weights[b]
        assert counts.sum() == len(own)
        rows = np.concatenate(
            [np.flatnonzero(samples == s) for s, n in zip(own, counts, strict=True) for _ in range(n)]
        )
        again = {k: v[0] for k, v in of_classes(scores[rows], logp[rows], y[rows], one(len(rows))).items()}
        for name in ("accuracy", "balanced accuracy", "F1", "ECE", "log loss"):
            assert found[name][1 + b] == pytest.approx(again[name], rel=1e-9), name
        # The area's resamples are of first order: near, and not the same.
        assert found["AUC"][1 + b] == pytest.approx(again["AUC"], abs=0.01)


def one(n):
    return Bootstrap(np.zeros(n, np.int64), 0, 0)


def test_intervals_are_as_wide_as_the_truth_is_uncertain():
    """Items of a sample all right or all wrong: an interval over items would be three times too narrow."""
    draw = np.random.default_rng(4)
    held = 0
    for trial in range(200):
        right = np.repeat(draw.random(100) < 0.8, 9)
        samples = np.repeat(np.arange(100), 9)
        e = Estimate.of(Bootstrap(samples, 400, trial).sums(right[:, None])[:, 0] / 900, 0.95)
        held += e.low <= 0.8 <= e.high
    assert 0.90 <= held / 200 <= 0.985


def test_a_class_that_is_not_there():
    y, scores = np.array([0, 0, 1, 1]), np.eye(3)[[0, 1, 1, 1]].astype(float)
    found = of_classes(scores, log_probabilities(task("classes", 3), scores), y, one(4))
    assert found["balanced accuracy"][0] == 0.75 and np.isfinite(found["F1"][0])
    assert found["AUC"][0] == pytest.approx(0.75)


def test_placements():
    scores, own = np.array([1.0, 2, 2, 3, 0]), np.array([False, True, False, True, True])
    assert placements(scores, own).tolist() == pytest.approx([2 / 3, 0.75, 0.5, 1.0, 0.0])


def test_temperature_undoes_a_scale():
    """Labels drawn from softmax(2 s): the temperature of scores s / 5 is 10."""
    draw = np.random.default_rng(5)
    s = draw.normal(size=(20000, 3))
    p = np.exp(log_probabilities(task("classes", 3), s, 2.0))
    y = (p.cumsum(1) < draw.random((len(p), 1))).sum(1)
    scale, loss = temperature(task("classes", 3), s / 5, y), LogLoss(task("classes", 3), s / 5, y)
    assert scale == pytest.approx(10, rel=0.05)
    assert loss(scale) <= loss(10.0) + 1e-6
    assert golden(lambda v: (v - 3) ** 2, -10, 10, 40)[0] == pytest.approx(3, abs=1e-6)
    assert reliability(np.array([0.9, 0.91]), np.array([True, False])) == [(pytest.approx(0.905), 0.5, 2)]


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_temperature_of_answers_that_are_all_right(kind):
    """Is bounded: out of n items, it is about as sure as somebody who has seen n right answers may be."""
    one, n = task(kind, 4), 100
    y = np.arange(n) % 4
    there = y[:, None] == np.arange(4)
    values = y if kind == "classes" else there.astype(np.int8)
    scale = temperature(one, np.where(there, 1.0, -1.0), values)
    logp = log_probabilities(one, np.where(there, 1.0, -1.0), scale)
    assert 0.3 / n < 1 - np.exp(logp[there]).mean() < 3 / n
    assert LogLoss(one, np.where(there, 1.0, -1.0), values)(scale) > 0


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
@pytest.mark.parametrize("mix", [0.0, 0.1])
def test_log_loss(kind, mix):
    """Of several sets of scores at once, however far apart, against probabilities written out."""
    draw = np.random.default_rng(6)
    scores = draw.normal(size=(3, 50, 4)) * np.array([1, 10, 900])[:, None, None]
    one = task(kind, 4)
    y = draw.integers(0, 4, 50) if kind == "classes" else draw.integers(0, 2, (50, 4))
    found = LogLoss(one, scores, y)(1.7, mix)
    for s, loss in zip(scores, found, strict=True):
        if kind == "classes":
            logp = log_probabilities(one, s, 1.7)[np.arange(50), y][:, None]
        else:
            logp = log_probabilities(one, np.where(y == 1, s, -s), 1.7)
        parts = 4 if kind == "classes" else 2
        if mix:
            logp = np.log((1 - mix) * np.exp(logp) + mix / parts)
        assert loss == pytest.approx(-logp.sum(1).mean(), rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_numbers_that_do_not_differ():
    """R2 is of none; nor are resamples that drew one sample alone taken for enormous errors."""
    boot = Bootstrap(np.repeat([0, 1, 2], 2), 200, 0)
    assert np.isnan(of_numbers(np.ones(6), np.full(6, 0.1), boot)["R2"]).all()
    y = np.repeat([0.1, 0.7, 1.3], 2)
    found = Estimate.of(of_numbers(y + 0.01, y, boot)["R2"], 0.95)
    assert 0.9 < found.low <= found.value < 1


def test_resamples_take_little_memory():
    boot = Bootstrap(np.arange(4000), 4000, 0)
    tracemalloc.start()
    boot.sums(np.ones((4000, 3)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20
