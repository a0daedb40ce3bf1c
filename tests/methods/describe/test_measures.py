"""Measures against scikit-learn; Neuron_Eval's tests, whose outcome is known for units that are concepts."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from mmxai.methods.describe.evaluate import SHARES, Seen, present, spoilt
from mmxai.methods.describe.measures import MEASURES, PASSING, active, pearson, sanity

ACTIVATIONS = (0.499, 0.1, 0.01, 0.001)
"""How often units are active in the paper's theoretical tests (Neuron_Eval goes down to 0.0001)."""


@pytest.fixture(scope="module")
def known():
    x = torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    label = x + torch.randn(400, 7, generator=torch.Generator().manual_seed(1)) > 1
    label[:, 5] = False
    return x, active(x, torch.tensor([0.05, 0.1, 0.2, 0.5, 0.01, 0.1, 0.9])), label


def test_active_is_the_highest_share():
    x = torch.tensor([[3.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    assert active(x, torch.tensor([0.5, 0.25])).T.tolist() == [
        [True, False, True, False],
        [True, True, False, False],  # all that tie
    ]
    mostly = torch.zeros(10, 2)
    mostly[3, 0] = 1
    assert active(mostly, torch.tensor([0.5, 0.5])).nonzero().tolist() == [[3, 0]]  # but not with the lowest


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("f1", metrics.f1_score),
        ("iou", metrics.jaccard_score),
        ("recall", metrics.recall_score),
        ("precision", lambda y, c: metrics.precision_score(y, c, zero_division=0)),
        ("auprc", metrics.average_precision_score),
        ("auc", metrics.roc_auc_score),
    ],
)
def test_measures_are_scikit_learns(known, name, theirs):
    x, on, label = known
    found = MEASURES[name](x, on, label)
    for u in range(6):
        assert found[u] == pytest.approx(theirs(on[:, u].numpy(), label[:, u].numpy()), abs=1e-12), u


def test_correlation_and_cosine(known):
    x, on, label = known
    for u in range(5):
        a, b = x[:, u].double().numpy(), label[:, u].double().numpy()
        assert MEASURES["correlation"](x, on, label)[u] == pytest.approx(np.corrcoef(a, b)[0, 1])
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert MEASURES["cosine"](x, on, label)[u] == pytest.approx(cosine)
    assert MEASURES["correlation"](x, on, label)[5] == 0  # a label that no picture has
    far = x + 1e4  # no digits are lost far from 0
    torch.testing.assert_close(pearson(far, label), pearson(x, label), atol=1e-3, rtol=0)


def test_which_measures_pass_the_tests_of_missing_and_extra_labels():
    """The paper's theoretical tests: units that are their concepts. AUC must fail where activity is rare,
    recall with extra labels, precision with missing ones."""
    n = 100_000
    concept = torch.zeros(n, len(ACTIVATIONS), dtype=torch.bool)
    for u, share in enumerate(ACTIVATIONS):
        concept[: int(share * n), u] = True
    found = sanity(concept.float(), concept, concept, draws=3)
    for name in MEASURES:
        assert torch.allclose(found.score[name], torch.ones(4, dtype=torch.float64))
        assert bool(found.falls(name).all()) == (name in PASSING), name
    assert found.falls("auc")[0].all() and found.falls("auc")[1].tolist() == [True, True, True, False]
    assert not found.falls("recall")[1].any() and not found.falls("precision")[0].any()
    # What is expected: half the labels, or twice as many.
    torch.testing.assert_close(found.missing["recall"], torch.full((4,), -0.5).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(
        found.extra["precision"][1:], torch.full((3,), -0.5).double(), atol=0.1, rtol=0
    )


def test_labels_that_are_there_or_not():
    """The share of the pictures with a label is found where it correlates best; labels are then by the
    judge's similarity alone, on other pictures."""
    draw = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(3000, 8, generator=draw), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(3, 8, generator=draw), dim=1)
    similar = images @ texts.T
    shares = torch.tensor([0.05, 0.2, 0.1])
    values = (similar >= torch.stack([similar[:, u].quantile(1 - s) for u, s in enumerate(shares)])).float()
    values[:, 2] = torch.randn(3000, generator=draw)  # a unit that has nothing to do with its label
    chosen, scored = Seen(values[:2000], images[:2000]), Seen(values[2000:], images[2000:])
    share, _ = present(chosen, texts)
    assert share[:2].tolist() == pytest.approx([0.05, 0.2]) and share[2] in torch.tensor(SHARES)
    found = spoilt(chosen, scored, texts, draws=5, seed=0)
    assert (found["score correlation"][:2] > 0.9).all() and abs(found["score correlation"][2]) < 0.1
    for name in PASSING:
        assert (found[f"missing {name}"][:2] < -0.01).all() and (found[f"extra {name}"][:2] < -0.01).all()
    assert (found["missing correlation"][2], found["extra correlation"][2]) > (-0.03, -0.03)
