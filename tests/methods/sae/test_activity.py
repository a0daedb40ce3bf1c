"""Sweeps over thresholds against scikit-learn and brute force."""

import numpy as np
import pytest

from mmxai.methods.sae.activity import Activity, auprc, counted, sweep


@pytest.fixture
def sparse():
    """60 items, 7 latents of which the last is dead, with tied values."""
    draw = np.random.default_rng(0)
    dense = np.round(np.maximum(draw.normal(size=(60, 7)), 0) * 4) / 4
    dense[:, 6] = 0
    rows, columns = np.nonzero(dense)
    shuffled = draw.permutation(len(rows))
    rows, columns = rows[shuffled], columns[shuffled]
    values = dense[rows, columns].astype(np.float32)
    return dense, Activity.highest(rows, columns, values, 60, 7)


def test_sweep_is_that_of_sklearn(sparse):
    metrics = pytest.importorskip("sklearn.metrics")
    dense, activity = sparse
    labels = np.random.default_rng(1).random((60, 5)) < 0.3
    found = sweep(activity, labels)
    for latent in range(7):
        for c in range(5):
            label, value = labels[:, c], dense[:, latent]
            expected = metrics.average_precision_score(label, value)
            assert auprc(activity, latent, label) == pytest.approx(expected, abs=1e-6)
            cuts = np.unique(value[value > 0])
            best = max((metrics.f1_score(label, value >= t) for t in cuts), default=0.0)
            assert found.f1[latent, c] == pytest.approx(best, abs=1e-6)
            on = activity.on(latent, float(found.threshold[latent, c]))
            told = counted(on, label)
            assert told.f1 == pytest.approx(best, abs=1e-6)
            assert told.iou == pytest.approx(metrics.jaccard_score(label, on), abs=1e-6)


def test_highest_keeps_the_largest_of_an_item():
    items, latents = np.array([3, 1, 3, 3]), np.array([2, 0, 2, 1])
    values = np.array([1, 5, 4, 2], np.float32)
    activity = Activity.highest(items, latents, values, 4, 3)
    assert activity.items.tolist() == [1, 3, 3] and activity.latents.tolist() == [0, 1, 2]
    assert activity.values.tolist() == [5, 2, 4]
    half = activity.among(np.array([False, False, True, True]))
    assert half.count == 2 and half.items.tolist() == [1, 1] and half.values.tolist() == [2, 4]


def test_nothing_is_active():
    none = np.empty(0, np.int64)
    activity = Activity.highest(none, none, np.empty(0, np.float32), 5, 3)
    label = np.array([True, False, False, False, False])
    found = sweep(activity, label[:, None])
    assert (found.f1 == 0).all() and np.isinf(found.threshold).all()
    assert auprc(activity, 1, label) == pytest.approx(0.2) and np.isnan(auprc(activity, 1, label & False))
