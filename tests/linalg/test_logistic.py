"""Logistic regression against scikit-learn in float64, and on labels whose law is known."""

import weakref

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg.logistic import NotConvergedWarning, array_blocks, fit_logistic

N, D = 400, 20
CS = (1e-3, 0.1, 10.0)


def world(classes, *, n=N, width=D, seed=0, offset=0.0):
    """Rows of a decaying spectrum `[n, width]` float32, labels drawn from a logistic law, folds."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width + 1).pow(-0.5)
    x = torch.randn(n, width, generator=draw) * scale
    truth = torch.randn(classes, width, generator=draw) * 2
    y = torch.multinomial((x @ truth.T).softmax(1), 1, generator=draw)[:, 0]
    return x + offset, y, torch.randint(4, (n,), generator=draw), truth


def objective(x, y, coef, intercept, C):
    """scikit-learn's, in float64."""
    z = x.double() @ coef.T + intercept
    if len(coef) == 1:
        z = torch.cat([torch.zeros_like(z), z], 1)
    return float(C * torch.nn.functional.cross_entropy(z, y, reduction="sum") + coef.square().sum() / 2)


def reference(x, y, C):
    made = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(x.double().numpy(), y.numpy())
    return torch.from_numpy(made.coef_), torch.from_numpy(made.intercept_)


def same_as_sklearn(fit, task, x, y, fold, Cs=CS, folds=range(4)):
    for i, C in enumerate(Cs):
        for f in folds:
            rows = fold != f
            at = (i, f)
            theirs = reference(x[rows], y[rows], C)
            least = objective(x[rows], y[rows], *theirs, C)
            ours = objective(x[rows], y[rows], fit.coef[task][at], fit.intercept[task][at], C)
            assert -1e-6 < ours / least - 1 < 1e-4
            assert float(fit.objective[task][at]) == pytest.approx(ours, rel=1e-5)
            torch.testing.assert_close(fit.coef[task][at], theirs[0], rtol=0.05, atol=0.02)
            assert fit.converged[task][at] and fit.passes[task][at] > 0


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_every_fold_and_penalty_is_scikit_learns(classes):
    x, y, fold, _ = world(classes)
    fit = fit_logistic(array_blocks(x, y, fold, rows=150), [classes], CS, folds=4)
    assert fit.coef[0].shape == (3, 4, classes if classes > 2 else 1, D)
    assert fit.intercept[0].shape == fit.coef[0].shape[:-1]
    same_as_sklearn(fit, 0, x, y, fold)


def test_tasks_of_several_kinds_at_once_are_what_each_is_alone():
    x, y, fold, _ = world(4)
    labels = torch.stack([y, y % 2, world(2, seed=1)[1], 3 - y], 1)
    together = fit_logistic(array_blocks(x, labels, fold), [4, 2, 2, 4], CS, folds=4)
    for task, classes in enumerate([4, 2, 2, 4]):
        alone = fit_logistic(array_blocks(x, labels[:, task], fold), [classes], CS, folds=4)
        torch.testing.assert_close(together.objective[task], alone.objective[0], rtol=1e-4, atol=0)
        same_as_sklearn(together, task, x, labels[:, task], fold, folds=[2])
    torch.testing.assert_close(together.objective[3], together.objective[0], rtol=1e-4, atol=0)


def test_the_fit_on_all_rows_comes_last():
    x, y, fold, _ = world(3)
    both = fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4, total=True)
    alone = fit_logistic(array_blocks(x, y), [3], CS)
    assert both.coef[0].shape[1] == 5 and alone.coef[0].shape[1] == 1
    torch.testing.assert_close(both.objective[0][:, 4], alone.objective[0][:, 0], rtol=1e-4, atol=0)
    same_as_sklearn(both, 0, x, y, fold, folds=[0, 3])
    same_as_sklearn(alone, 0, x, y, fold=torch.ones(N, dtype=int), folds=[0])


def test_rows_of_no_fit_and_rows_without_a_label():
    x, y, fold, _ = world(3)
    labels = torch.stack([y, y.clamp(max=1), y.flip(0)], 1)
    fold[:50] = -1
    labels[60:150, :2] = -1
    fit = fit_logistic(array_blocks(x, labels, fold, rows=90), [3, 2, 3], CS, folds=4)
    for task in range(3):
        used = (fold >= 0) & (labels[:, task] >= 0)
        same_as_sklearn(fit, task, x[used], labels[used, task], fold[used], folds=[1])


def test_fewer_rows_than_width():
    x, y, fold, _ = world(3, n=60, width=200)
    fit = fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4)
    same_as_sklearn(fit, 0, x, y, fold, folds=[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    x, y, fold, _ = world(3)
    x = x.to(dtype)
    fit = fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4)
    same_as_sklearn(fit, 0, x, y, fold, folds=[0])


def test_a_large_offset_and_columns_of_other_sizes():
    x, y, fold, _ = world(3)
    x = x.double() * torch.logspace(-3, 3, D, dtype=torch.float64)
    plain = fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4)
    far = fit_logistic(array_blocks(x + 1e6, y, fold), [3], CS, folds=4)
    torch.testing.assert_close(far.objective[0], plain.objective[0], rtol=1e-4, atol=0)
    at = (1, 0)
    rows = fold != 0
    ours = objective((x + 1e6)[rows], y[rows], far.coef[0][at], far.intercept[0][at], CS[1])
    assert ours == pytest.approx(float(far.objective[0][at]), rel=1e-4)


def test_separable_classes_and_a_weak_penalty():
    """The least objective is near 0, and every product of float32 has to be worth its digits."""
    x, y, fold, truth = world(3)
    y = (x @ truth.T).argmax(1)
    fit = fit_logistic(array_blocks(x, y, fold), [3], [1e4], folds=4)
    same = reference(x[fold != 0], y[fold != 0], 1e4)
    least = objective(x[fold != 0], y[fold != 0], *same, 1e4)
    ours = objective(x[fold != 0], y[fold != 0], fit.coef[0][0, 0], fit.intercept[0][0, 0], 1e4)
    assert ours <= least * (1 + 1e-4)


def test_a_class_that_a_fold_lacks():
    x, y, fold, _ = world(3)
    fold = torch.where(y == 2, 0, fold)
    fit = fit_logistic(array_blocks(x, y, fold), [3], [1.0], folds=4)
    rows = fold != 0
    two = reference(x[rows], y[rows], 1.0)
    # Both columns of a softmax of two share the coefficients of one: half the squares.
    binary = objective(x[rows], y[rows], *two, 1.0) - float(two[0].square().sum()) / 4
    assert float(fit.objective[0][0, 0]) <= binary * (1 + 1e-3)
    assert fit.intercept[0][0, 0].argmin() == 2 and fit.converged[0].all()


def test_the_planted_law_is_found_and_control_labels_are_not():
    x, y, fold, truth = world(4, n=6000)
    control = torch.randint(4, (6000,), generator=torch.Generator().manual_seed(9))
    fit = fit_logistic(array_blocks(x, torch.stack([y, control], 1), fold), [4, 4], [1.0], folds=4)
    centred = truth.double() - truth.double().mean(0)
    assert torch.nn.functional.cosine_similarity(fit.coef[0][0, 0], centred, dim=1).min() > 0.9
    held = fold == 0
    bayes = ((x @ truth.T).argmax(1) == y)[held].double().mean()
    right = [
        ((x.double() @ fit.coef[t][0, 0].T + fit.intercept[t][0, 0]).argmax(1) == labels)[held]
        .double()
        .mean()
        for t, labels in enumerate([y, control])
    ]
    assert right[0] > bayes - 0.03 and abs(right[1] - 0.25) < 0.06


def test_a_stream_is_not_held_and_blocks_may_be_any_size():
    x, y, fold, _ = world(3, n=2000)
    alive: set[int] = set()
    most = 0

    def blocks():
        nonlocal most
        for start in range(0, 2000, 130):
            block = x[start : start + 130].clone()
            number = id(block)
            alive.add(number)
            weakref.finalize(block, alive.discard, number)
            most = max(most, len(alive))
            yield block, y[start : start + 130, None], fold[start : start + 130]

    streamed = fit_logistic(blocks, [3], CS, folds=4)
    whole = fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4)
    assert most <= 2
    torch.testing.assert_close(streamed.objective[0], whole.objective[0], rtol=1e-4, atol=0)


def test_not_converged_is_said():
    x, y, fold, _ = world(3)
    with pytest.warns(NotConvergedWarning, match="raise max_passes"):
        fit = fit_logistic(array_blocks(x, y, fold), [3], [1e3], folds=4, tolerance=1e-9, max_passes=2)
    assert not fit.converged[0].any() and (fit.passes[0] == 2).all() and fit.coef[0].isfinite().all()


def test_rows_that_are_not_finite():
    x, y, fold, _ = world(3)
    x[7, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or inf"):
        fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4)
    fold[7] = -1  # a row of no fit may hold anything
    assert fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4).converged[0].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [2]}, "expected below"),
        ({"classes": [1]}, "at least 2"),
        ({"classes": [3, 3]}, "labels"),
        ({"Cs": [0.0]}, "positive"),
        ({"Cs": []}, "positive"),
        ({"folds": 1}, "at least 2"),
        ({"folds": 3}, "expected below 3"),
        ({"tolerance": 0.0}, "positive"),
    ],
)
def test_unusable_settings(change, message):
    x, y, fold, _ = world(3)
    settings = {"classes": [3], "Cs": CS, "folds": 4} | change
    with pytest.raises(ArgumentError, match=message):
        fit_logistic(array_blocks(x, y, fold), **settings)


def test_no_rows():
    x, y, fold, _ = world(3)
    with pytest.raises(ArgumentError, match="no rows"):
        fit_logistic(array_blocks(x, y, torch.full_like(fold, -1)), [3], CS, folds=4)


def test_the_same_numbers_every_time():
    x, y, fold, _ = world(3)
    one, two = (fit_logistic(array_blocks(x, y, fold), [3], CS, folds=4) for _ in range(2))
    assert np.array_equal(one.coef[0], two.coef[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("only", [0, 1])
def test_a_fit_whose_rows_are_all_of_one_class(classes, only):
    """As of a label that a fold alone has: it is certain from the start, and holds nobody up."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=draw) + 3
    fold = torch.arange(200) % 4
    y = torch.full((200, 2), only)
    y[fold == 3, 0] = torch.arange(50) % classes
    fit = fit_logistic(array_blocks(x, y, fold), [classes, classes], [1.0], folds=4, total=True)
    for task, own in ((0, [3]), (1, [0, 1, 2, 3, 4])):
        assert bool(fit.converged[task].all())
        assert (fit.objective[task][0, own] < 1e-6 * 200).all() and (fit.coef[task][0, own] == 0).all()
        logits = fit.intercept[task][0, own]
        assert (logits.argmax(1) == only).all() if classes > 2 else (logits[:, 0] > 0).eq(bool(only)).all()
    assert int(fit.passes[0].max()) < 60 and (fit.coef[0][0, :3] != 0).any()
