"""Moments by fold against numpy over the rows of the fold at once."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg import DualState, FoldedGram, GramState, ridge_path
from mmxai.linalg.gram import SAFE

WIDTH, TARGETS, FOLDS = 7, 3, 4


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(400, WIDTH, generator=generator) @ torch.randn(WIDTH, WIDTH, generator=generator)
    y = torch.randn(400, TARGETS, generator=generator) + mixed[:, :TARGETS]
    fold = torch.randint(-1, FOLDS, (400,), generator=generator)
    return mixed + 1000, y, fold  # an offset that would cost float32 sums of squares their digits


def exact(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    a, b = x - x.mean(0), y - y.mean(0)
    return len(x), x.mean(0), y.mean(0), (b * b).sum(0), a.T @ a, a.T @ b


def fill(gram, rows, block=37):
    x, y, fold = rows
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        gram.update(x[part], y[part], fold[part])
    return gram


def matches(state, x, y, rtol=1e-11):
    count, mean_x, mean_y, yy, xx, xy = exact(x, y)
    assert state.count == count
    size = np.sqrt(np.outer(xx.diagonal(), xx.diagonal()).max())
    np.testing.assert_allclose(state.mean_x, mean_x, rtol=rtol)
    np.testing.assert_allclose(state.mean_y, mean_y, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(state.yy, yy, rtol=rtol)
    np.testing.assert_allclose(state.xx, xx, rtol=0, atol=rtol * size)
    np.testing.assert_allclose(state.xy, xy, rtol=0, atol=rtol * np.sqrt(size * yy.max()))
    assert torch.equal(state.xx, state.xx.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_fold_left_out_in_turn(rows, dtype):
    x, y, fold = rows
    x = x.to(dtype)
    gram = fill(FoldedGram(WIDTH, TARGETS, FOLDS), (x, y, fold))
    matches(gram.total(), x[fold >= 0], y[fold >= 0])
    for f in range(FOLDS):
        kept = (fold >= 0) & (fold != f)
        state = gram.train(f)
        assert isinstance(state, GramState)
        matches(state, x[kept], y[kept])


def test_few_rows_are_kept_as_they_are(rows):
    x, y, fold = (v[:6] for v in rows)
    fold = torch.tensor([0, 1, 1, -1, 3, 2])
    gram = fill(FoldedGram(WIDTH, TARGETS, FOLDS, rows=5), (x, y, fold), block=4)
    assert gram.dual
    matches(gram.total(), x[fold >= 0], y[fold >= 0])
    state = gram.train(1)
    assert isinstance(state, DualState)
    matches(state, x[[0, 4, 5]], y[[0, 4, 5]])
    with pytest.raises(ArgumentError, match="got 6 rows, expected at most rows=5"):
        gram.update(x[:1], y[:1])
    assert not FoldedGram(WIDTH, TARGETS, rows=WIDTH).dual


def test_float32_products_err_in_the_seventh_digit(rows):
    x, y, fold = rows
    gram = fill(FoldedGram(WIDTH, TARGETS, FOLDS, product="float32"), rows)
    kept = (fold >= 0) & (fold != 2)
    matches(gram.train(2), x[kept], y[kept], rtol=3e-7)
    size = gram.train(2).xx.max()
    wide = fill(FoldedGram(WIDTH, TARGETS, FOLDS), rows).train(2).xx
    assert 1e-10 * size < (gram.train(2).xx - wide).abs().max() < 3e-7 * size


@pytest.mark.parametrize("steep", [False, True])
def test_float32_products_where_the_first_rows_allow_them(steep):
    """Estimated within a factor of 30 above and 2 below what they do; too much, and float64 stays."""
    rng = np.random.default_rng(0)
    n, width = 3000, 64
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    x = (rng.standard_normal((n, width)) * np.arange(1.0, width + 1) ** -(1.5 if steep else 0.3)) @ turn + 3
    y = torch.from_numpy((x - 3) @ rng.standard_normal((width, 2)) + rng.standard_normal((n, 2)))
    rows, fold = torch.from_numpy(x).float(), torch.arange(n) % 3

    def filled(product, rows=rows):
        gram = fill(FoldedGram(width, 2, 3, product=product, share=1e-3), (rows, y, fold), block=500)
        penalty = 1e-3 * float(gram.total().xx.diagonal().mean())
        return gram, ridge_path(gram.train(1), [penalty])[0][0]

    auto, taken = filled("auto")
    exact, single = filled("float64")[1], filled("float32")[1]
    off = float(((single - exact).norm(dim=0) / exact.norm(dim=0)).max())
    assert off / 2 < auto.rounding < 30 * off
    assert auto.product == ("float64" if steep else "float32")
    assert (auto.rounding > SAFE) == steep
    assert (taken - exact).norm() < (1e-9 if steep else SAFE) * exact.norm()
    assert filled("auto", rows.double())[0].product == "float64"


def test_float32_is_not_taken_for_what_cannot_be_solved(rows):
    x, y, fold = rows
    x = x.clone()
    x[:, 3] = x[:, 2]
    gram = fill(FoldedGram(WIDTH, TARGETS, FOLDS, product="auto"), (x, y, fold))
    assert gram.product == "float64" and gram.rounding > SAFE


def test_sums_too_large_for_their_type_are_no_bad_rows():
    x = torch.full((4, WIDTH), 3e38)
    x[1] = 0
    gram = FoldedGram(WIDTH, 1)
    gram.update(x, torch.zeros(4, 1))
    assert gram.counts == [4] and gram.total().xx.isfinite().all()


def test_classes_are_counted(rows):
    x, _, fold = rows
    labels = torch.arange(400) % 3
    labels[:] = torch.where(labels == 2, 0, labels)  # nobody is of the third
    gram = fill(FoldedGram(WIDTH, 3, FOLDS), (x, torch.nn.functional.one_hot(labels, 3), fold))
    kept = (fold >= 0) & (fold != 1)
    state = gram.train(1)
    counts = [int((labels[kept] == c).sum()) for c in range(3)]
    np.testing.assert_allclose(state.class_counts, counts, atol=1e-9)
    for c in (0, 1):
        mean = x[kept & (labels == c)].double().mean(0)
        torch.testing.assert_close(state.class_means[c], mean, rtol=1e-12, atol=0)
    assert torch.equal(state.class_means[2], state.mean_x)


def test_memory_is_that_of_the_folds(rows):
    gram = fill(FoldedGram(WIDTH, TARGETS, FOLDS), rows)

    def held():
        arrays = [gram._sum_x, gram._sum_y, gram._yy, gram._xy, *gram._xx]
        return sum(a.nbytes for a in arrays)

    before = held()
    fill(gram, rows)
    assert held() == before <= FoldedGram.bytes_needed(WIDTH, TARGETS, FOLDS)


def test_bad_rows_are_refused_whole_and_left_out_on_demand(rows):
    x, y, fold = (v.clone() for v in rows)
    fold[:] = 0
    gram = FoldedGram(WIDTH, TARGETS)
    gram.update(x[:50], y[:50])
    x[60, 2] = torch.inf
    with pytest.raises(NonFiniteError, match="row 10 of a block of 50"):
        gram.update(x[50:100], y[50:100])
    assert gram.counts == [50]
    y[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="row 3 "):
        FoldedGram(WIDTH, TARGETS).update(x[:50], y[:50])
    fold[[3, 60]] = -1
    first = fill(FoldedGram(WIDTH, TARGETS), (x, y, fold))
    matches(first.total(), x[fold >= 0], y[fold >= 0])


def test_bad_arguments(rows):
    x, y, fold = rows
    gram = FoldedGram(WIDTH, TARGETS, FOLDS)
    gram.update(x[:0], y[:0], fold[:0])
    gram.update(x[:2], y[:2], torch.full((2,), -1))
    with pytest.raises(ArgumentError, match="no rows"):
        gram.total()
    for bad in (
        (x.long(), y, fold),
        (x[:, 1:], y, fold),
        (x, y[1:], fold),
        (x, y, fold + 1),
        (x, y, fold[1:]),
    ):
        with pytest.raises(ArgumentError):
            gram.update(*bad)
    fill(gram, rows)
    for f in (-1, FOLDS):
        with pytest.raises(ArgumentError, match="expected 0 <= fold"):
            gram.train(f)
    with pytest.raises(ArgumentError, match="no rows"):
        fill(FoldedGram(WIDTH, TARGETS), (x, y, fold.clamp(max=0))).train(0)
    with pytest.raises(ArgumentError, match="product"):
        FoldedGram(WIDTH, TARGETS, product="float16")
    with pytest.raises(ArgumentError, match="share=-1"):
        FoldedGram(WIDTH, TARGETS, share=-1)
    with pytest.raises(ArgumentError, match="width=0"):
        FoldedGram(0, 1)


@pytest.mark.filterwarnings("error")
def test_a_class_that_has_not_come_yet_says_nothing_of_rounding():
    """Coded 0 and shifted, it varies by rounding alone: of that neither a root nor a share is taken."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 16, generator=draw)
    label = torch.randint(3, (4000,), generator=draw)
    label[2500::50] = 3  # after the rows that are looked at
    y = torch.nn.functional.one_hot(label, 4).double()
    gram = FoldedGram(16, 4, product="auto", share=1e-3)
    gram.update(x, y)
    assert gram.product == "float32" and 0 < gram.rounding < SAFE
    assert torch.allclose(gram.total().yy, (y - y.mean(0)).square().sum(0), rtol=1e-9)
