"""Each fit against an independent implementation, against planted directions, and streamed against at
once."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, FastICA

from mmxai.errors import ArgumentError
from mmxai.linalg.overlap import matched_cosine
from mmxai.methods.decompose.dictionary import Dictionary
from mmxai.methods.decompose.ica import fit_ica
from mmxai.methods.decompose.kmeans import fit_kmeans, seeds_of
from mmxai.methods.decompose.nmf import fit_nmf
from mmxai.methods.decompose.nonnegative import nonnegative_codes
from mmxai.methods.decompose.pca import fit_pca, moments_of

D, K = 20, 6


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def blocks(x, size=500):
    return lambda: iter(x.split(size))


@pytest.fixture(scope="module")
def sources():
    """Rows of K independent, heavy-tailed, skewed sources; and the directions they add."""
    s = torch.from_numpy(np.random.default_rng(1).exponential(size=(4000, K))).float() - 1
    directions = unit(torch.randn(K, D, generator=draw(1))) * torch.linspace(1, 3, K)[:, None]
    return s @ directions + 2, directions


@pytest.fixture(scope="module")
def parts():
    """Rows of few non-negative parts each, the parts non-negative too."""
    rng = np.random.default_rng(2)
    h = torch.from_numpy(rng.exponential(size=(3000, K)) * (rng.random((3000, K)) < 0.4)).float()
    directions = unit(torch.from_numpy(rng.random((K, D)) * (rng.random((K, D)) < 0.4)).float() + 1e-3)
    return h @ directions, directions


def test_pca_is_that_of_all_rows_at_once(sources):
    x, _ = sources
    directions, facts = fit_pca(moments_of(blocks(x + 1000)), K)
    theirs = PCA(K).fit(x.numpy())
    np.testing.assert_allclose(np.abs(directions @ theirs.components_.T), np.eye(K), atol=2e-4)
    np.testing.assert_allclose(facts["explained"], theirs.explained_variance_ratio_, rtol=1e-3)


def test_ica_finds_planted_sources_and_takes_sklearns_steps(sources):
    x, planted = sources
    moments = moments_of(blocks(x))
    directions, encoder, facts = fit_ica(moments, blocks(x), None, K, seed=3, tol=1e-8)
    assert facts["converged"] and matched_cosine(directions, planted, signed=True) > 0.99
    theirs = FastICA(K, whiten="unit-variance", fun="logcosh", tol=1e-8, max_iter=500, random_state=0)
    theirs.fit(x.double().numpy())
    assert matched_cosine(directions, torch.from_numpy(theirs.mixing_.T), signed=False) > 1 - 1e-5
    codes = (x.double() - moments.mean) @ encoder.T
    np.testing.assert_allclose(codes.T @ codes / len(x), np.eye(K), atol=1e-4)
    torch.testing.assert_close(encoder @ directions.T, torch.eye(K, dtype=torch.float64), atol=1e-6, rtol=0)
    lengths = directions.norm(dim=1)
    assert (lengths.diff() <= 0).all() and ((codes**3).mean(0) > 0).all()


def test_ica_goes_on_over_all_rows(sources):
    """A sample of a tenth gets near; the passes arrive where all rows in memory would."""
    x, _ = sources
    moments = moments_of(blocks(x))
    at_once, _, _ = fit_ica(moments, blocks(x), None, K, tol=1e-8)
    sample = lambda: iter([x[:400]])  # noqa: E731
    streamed, _, facts = fit_ica(moments, sample, blocks(x), K, tol=1e-8, passes=60)
    rough, _, _ = fit_ica(moments, sample, None, K, tol=1e-8)
    assert facts["converged"] and facts["passes"] > 1
    assert matched_cosine(streamed, at_once) > 1 - 1e-6 > matched_cosine(rough, at_once)


def test_ica_refuses_more_units_than_directions(sources):
    x = sources[0]
    flat = torch.cat([x[:, :4], x[:, :4] @ torch.ones(4, 3)], 1)
    with pytest.raises(ArgumentError, match="vary in 4 directions, expected at most 4 units"):
        fit_ica(moments_of(blocks(flat)), blocks(flat), None, 6)


def test_nonnegative_codes_are_scipys():
    f = torch.randn(K, D, generator=draw(3), dtype=torch.float64)
    x = torch.randn(50, D, generator=draw(4), dtype=torch.float64) * 3
    found = nonnegative_codes(x, f, tol=1e-12)
    theirs = np.stack([nnls(f.T.numpy(), row)[0] for row in x.numpy()])
    np.testing.assert_allclose(found, theirs, atol=1e-9)
    assert (found == 0).any() and (found >= 0).all()


def test_nmf_is_as_good_as_sklearns_and_finds_planted_parts(parts):
    x, planted = parts
    directions, facts = fit_nmf(x, None, K, tol=1e-7, warm=500)
    theirs = NMF(K, init="nndsvda", max_iter=1000, tol=1e-7).fit(x.numpy())
    wrong = theirs.reconstruction_err_**2 / len(x)
    assert facts["errors"][-1] <= 1.02 * wrong + 1e-6 * x.square().sum(1).mean()
    assert (directions >= 0).all() and matched_cosine(directions, planted) > 0.98


def test_the_error_falls_with_every_pass(parts, sources):
    for x, semi in ((parts[0], False), (sources[0] - 2, True)):
        _, facts = fit_nmf(x[:200], blocks(x), K, semi=semi, warm=1, passes=12, tol=1e-9)
        errors = np.array(facts["errors"])
        assert len(errors) == 12 and (np.diff(errors) <= 1e-6 * errors[0]).all()
        assert errors[-1] < 0.9 * errors[0]


def test_seminmf_finds_directions_of_any_sign():
    rng = np.random.default_rng(5)
    h = torch.from_numpy(rng.exponential(size=(3000, K)) * (rng.random((3000, K)) < 0.3)).float()
    planted = unit(torch.randn(K, D, generator=draw(6)))
    x = h @ planted
    directions, facts = fit_nmf(x, None, K, semi=True, tol=1e-8, warm=500)
    assert matched_cosine(directions, planted) > 0.98
    assert facts["errors"][-1] < 1e-2 * x.square().sum(1).mean()
    pca, _ = fit_pca(moments_of(blocks(x)), K)
    assert matched_cosine(pca, planted, signed=False) < 0.9  # which decorrelation alone does not


def test_nmf_refuses_values_below_0(sources):
    x = sources[0] - 2
    with pytest.raises(ArgumentError, match="use seminmf, or negative='clip'"):
        fit_nmf(x, None, K)
    assert (fit_nmf(x, None, K, negative="clip", warm=3)[0] >= 0).all()


def test_a_unit_that_explains_nothing_begins_anew():
    x = torch.eye(D).repeat(50, 1)  # D parts and as many units: none may be lost
    directions, facts = fit_nmf(x, None, D, tol=1e-9, warm=300, seed=1)
    assert facts["errors"][-1] < 1e-4 and matched_cosine(directions, torch.eye(D)) > 0.99


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_is_lloyds(spherical, sources):
    """From the same seeds, at once or streamed, it ends where scikit-learn's Lloyd does (k-means; spherical:
    of rows of norm 1, with the fixed point checked by hand)."""
    x, _ = sources
    ours, facts = fit_kmeans(x, None, K, spherical=spherical, tol=0, warm=300, seed=2)
    assert facts["converged"]
    if not spherical:
        first = seeds_of(x, K, 2).numpy()
        theirs = KMeans(K, init=first, n_init=1, tol=0, max_iter=300, algorithm="lloyd").fit(x.numpy())
        np.testing.assert_allclose(ours, theirs.cluster_centers_, atol=1e-3)
        np.testing.assert_allclose(facts["errors"][-1], theirs.inertia_ / len(x), rtol=1e-4)
    else:
        which = (unit(x) @ ours.T).argmax(1)
        means = unit(torch.stack([unit(x)[which == k].mean(0) for k in range(K)]))
        torch.testing.assert_close(ours, means, atol=1e-4, rtol=0)


def test_kmeans_goes_on_over_all_rows(sources):
    x, _ = sources
    centroids, facts = fit_kmeans(x[:100], blocks(x), K, tol=0, passes=300)
    assert facts["converged"] and facts["passes"] > 1
    which = torch.cdist(x, centroids).argmin(1)
    means = torch.stack([x[which == k].mean(0) for k in range(K)])
    torch.testing.assert_close(centroids, means, atol=1e-4, rtol=1e-4)
    assert (np.diff(facts["errors"]) <= 1e-9).all()


def test_a_centroid_without_rows_begins_anew():
    """Five groups, a sample that knows two: passes find the others."""
    groups = torch.eye(5)[torch.arange(1000) % 5] * 10 + torch.randn(1000, 5, generator=draw(7)) * 0.1
    known = groups[torch.arange(1000) % 5 < 2]
    centroids, facts = fit_kmeans(known, blocks(groups), 5, tol=1e-6, passes=100)
    assert facts["errors"][-1] < 0.2
    assert sorted(centroids.argmax(1).tolist()) == [0, 1, 2, 3, 4]


def test_planted_clusters_are_found():
    centres = torch.randn(8, D, generator=draw(8)) * 4
    x = centres[torch.arange(2000) % 8] + torch.randn(2000, D, generator=draw(9)) * 0.3
    directions, _ = fit_kmeans(x, None, 8, seed=1)
    assert matched_cosine(directions, centres) > 0.999
    lone = Dictionary("kmeans", "t.0.x", directions, torch.zeros(D))
    codes = lone.encode_dense(x)
    assert (codes.sum(1) == 1).all() and ((codes > 0).sum(1) == 1).all()
    assert (lone.decode(codes) - x).square().sum(1).mean() < 2 * D * 0.09
