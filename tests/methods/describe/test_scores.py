"""The five scores against plain loops in float64, a unit at a time; blocks, ties and what is refused."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.describe import cosine, cosine_cubed, rank_reorder, scores, soft_wpmi, wpmi
from mmxai.methods.describe.best import best_words, permuted
from mmxai.methods.describe.order import largest
from mmxai.methods.describe.similarities import Similarities

N, U, W = 230, 9, 57


@pytest.fixture
def known():
    """Similarities of a judge, above 0 as CLIPs' are, and values of units that follow some of the words."""
    images, texts = torch.randn(N, 24) + 0.7, torch.randn(W, 24) + 0.7
    similar = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    return similar.abs(), 2 * torch.randn(N, U) + 15 * similar[:, 3 : 3 + U]


def loop_wpmi(similar, values, top, temperature, weights, marginal):
    s, x = similar.double().numpy(), values.double().numpy()
    p = np.exp(temperature * s) / np.exp(temperature * s).sum(1, keepdims=True)
    found = np.zeros((x.shape[1], s.shape[1]))
    for u in range(x.shape[1]):
        for j, picture in enumerate(np.argsort(-x[:, u], kind="stable")[:top]):
            found[u] += np.log(1 + weights[j] * (p[picture] - 1) + 1e-7)
    prior = np.log(np.exp(found - found.max(0)).mean(0)) + found.max(0)
    return found - marginal * prior


def loop_cosine(similar, values, cubed):
    s, x = similar.double().numpy(), values.double().numpy()
    found = np.zeros((x.shape[1], s.shape[1]))
    for u in range(x.shape[1]):
        for w in range(s.shape[1]):
            a, b = x[:, u], s[:, w]
            if cubed:
                a, b = (a - a.mean()) ** 3, (b - b.mean()) ** 3
            least = 1e-3 if cubed else 0
            found[u, w] = a @ b / (max(np.linalg.norm(a), least) * max(np.linalg.norm(b), least))
    return found


def loop_rank(similar, values, share):
    s, x = similar.double().numpy(), values.double().numpy()
    n = int(len(x) * share)
    found = np.full((x.shape[1], s.shape[1]), -np.inf)
    for u in range(x.shape[1]):
        tops = np.argsort(-x[:, u], kind="stable")[:n]
        own = x[tops, u]
        chance = np.mean([abs(a - b) ** 3 for a in own for b in own])
        for w in range(s.shape[1]):
            rank = np.argsort(np.argsort(s[tops, w], kind="stable"))
            change = np.mean(np.abs(own - np.sort(own)[rank]) ** 3)
            if s[tops, w].mean() > 0:
                found[u, w] = -change / chance / s[tops, w].mean() ** 0.5
    return found


def test_soft_wpmi_is_the_loop(known):
    weights = np.float32(0.998 - np.arange(100) / 100 * (0.998 - 0.97))  # 1 - weight is 2e-3: digits matter
    exact = loop_wpmi(*known, 100, 10, weights, 1)
    np.testing.assert_allclose(soft_wpmi(*known), exact, atol=1e-4, rtol=0)
    weights = 0.9 - np.arange(12) / 12 * 0.4
    exact = loop_wpmi(*known, 12, 3, weights, 0.5)
    found = soft_wpmi(*known, top=12, temperature=3, marginal=0.5, first=0.9, last=0.5)
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_wpmi_is_the_loop(known):
    np.testing.assert_allclose(wpmi(*known), loop_wpmi(*known, 28, 2, np.ones(28), 0.6), atol=1e-4)


@pytest.mark.parametrize("cubed", [False, True])
def test_cosines_are_the_loop(known, cubed):
    similar, values = known
    found = (cosine_cubed if cubed else cosine)(similar, values)
    np.testing.assert_allclose(found, loop_cosine(similar, values, cubed), atol=1e-5)
    # A CLIP's cosines vary so little that cubes fall below the least norm that counts.
    similar = 0.2 + 0.01 * similar
    found = (cosine_cubed if cubed else cosine)(similar, values)
    np.testing.assert_allclose(found, loop_cosine(similar, values, cubed), atol=1e-5)


def test_rank_reorder_is_the_loop(known):
    similar, values = known
    similar = similar - 0.3  # words without a score among them
    for share in (0.05, 0.3):
        found, exact = rank_reorder(similar, values, share=share), loop_rank(similar, values, share)
        assert np.isinf(exact).any() and (np.isinf(found.numpy()) == np.isinf(exact)).all()
        np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi", "cosine", "cosine_cubed", "rank_reorder"])
def test_blocks_change_nothing(known, name, monkeypatch):
    """The marginal of a block of words is that of the whole layer."""
    score = getattr(scores, name)
    whole = score(*known)
    monkeypatch.setattr(scores, "BLOCK_VALUES", 0)  # blocks of the least width
    monkeypatch.setattr(scores, "LEAST_WORDS", 5)
    torch.testing.assert_close(score(*known), whole, atol=1e-5, rtol=1e-5)


def test_the_marginal_is_over_all_units(known):
    """With some of the units another: so it may not be taken a group at a time."""
    similar, values = known
    whole, some = soft_wpmi(similar, values), soft_wpmi(similar, values[:, :4])
    assert (whole[:4] - some).abs().max() > 0.1
    prior = (whole - some.new_zeros(())).exp().mean(0)
    torch.testing.assert_close(prior, torch.ones(W), atol=1e-4, rtol=0)


def test_similarities_that_do_not_fit_are_computed_again(known):
    images, texts = torch.randn(40, 6), torch.randn(31, 6)
    held, not_held = Similarities(images, texts, 1 << 20), Similarities(images, texts, 0)
    torch.testing.assert_close(held.block(3, 20), not_held.block(3, 20))
    torch.testing.assert_close(held.rows(3, 20), images[3:20] @ texts.T)
    torch.testing.assert_close(held.log_norms(4.0), not_held.log_norms(4.0))
    torch.testing.assert_close(held.log_norms(4.0), (4 * images @ texts.T).logsumexp(1))


def test_best_words_are_the_best_whatever_the_blocks(known, monkeypatch):
    similar, values = known
    similar = torch.cat([similar, similar[:, :9]], 1)  # the same words once more
    similarities = Similarities.of(similar)
    whole = scores.whole(scores.Cosine(similarities, values))
    monkeypatch.setattr(scores, "BLOCK_VALUES", 0)
    for least in (1, 7, 100):
        monkeypatch.setattr(scores, "LEAST_WORDS", least)
        words, found = best_words(scores.Cosine(similarities, values), 4)
        expected = np.argsort(-whole.numpy(), 1, kind="stable")[:, :4]
        assert (words.numpy() == expected).all()
        torch.testing.assert_close(found, whole.gather(1, words))
    words, found = best_words(scores.Cosine(similarities, values), 1000)
    assert words.shape == (U, W + 9)


def test_words_without_a_score_are_no_words(known):
    similar, values = known
    similar[:, 2:] = -similar[:, 2:]
    words, found = best_words(scores.RankReorder(Similarities.of(similar), values), 4)
    assert (words[:, 2:] == -1).all() and torch.isinf(found[:, 2:]).all()
    assert (words[:, :2].sort(1).values == torch.tensor([0, 1])).all()


def test_permutations_move_all_units_alike(known):
    """A permuted score is that of units whose pictures are permuted, so what units have in common stays."""
    similar, values = known
    values[:, 1] = values[:, 0]
    seen = []

    def score_of(order):
        seen.append(order)
        return scores.Cosine(Similarities.of(similar), torch.empty_like(values).index_copy_(0, order, values))

    words, found = permuted(score_of, N, 6, seed=1)
    assert words.shape == found.shape == (6, U) and (words[:, 0] == words[:, 1]).all()
    assert all((order.sort().values == torch.arange(N)).all() for order in seen) and len(seen) == 6
    for d, order in enumerate(seen):
        x = values.clone()
        x[order] = values
        torch.testing.assert_close(found[d], scores.cosine(similar, x).amax(1))


@pytest.mark.parametrize("named", [False, True])
def test_largest_are_those_of_a_stable_sort(named):
    x = (torch.randn(13, 90) * 2).round()
    x[0], x[1, ::2], x[2, 5] = 0, -0.0, -torch.inf
    name = torch.arange(90).expand(13, -1) if named else None
    order = torch.from_numpy(np.argsort(-x.numpy() + 0, 1, kind="stable"))
    assert (largest(x, 20, name) == order[:, :20]).all()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda s, x: soft_wpmi(s, x, top=N + 1), "the 231 best of 230 pictures"),
        (lambda s, x: soft_wpmi(s, x[:-1]), "of the 230 pictures"),
        (lambda s, x: wpmi(s.double(), x), r"expected \(N, W\) of float32"),
        (lambda s, x: cosine(s, x.half()), "expected float32"),
        (lambda s, x: cosine(s, x / 0), "NaN or infinities"),
        (lambda s, x: rank_reorder(s, x, share=0.005), "of which 0.005 are 1"),
        (lambda s, x: Similarities(s, x), r"expected \(N, J\) and \(W, J\)"),
    ],
)
def test_refuses(known, make, said):
    with pytest.raises(ArgumentError, match=said):
        make(*known)
