"""Figures of a reconstruction against numpy over all rows at once, and PCA against the SVD."""

import json

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.methods.sae.measures import Measures
from mmxai.methods.sae.overlap import overlap
from mmxai.methods.sae.pca import pca_sae
from mmxai.methods.sae.spec import SAESpec
from tests.methods.sae.planted import SITE, orthonormal, sae_of, sparse_codes


@pytest.fixture(scope="module")
def rows():
    directions = orthonormal(16)
    return directions, sparse_codes(300, 16, 3) @ directions


def measured(sae, x, target=None):
    found = Measures(sae.spec)
    for part, wanted in zip(x.split(64), (x if target is None else target).split(64), strict=True):
        codes = sae.encode(part)
        found.update(codes, sae.decode(codes, part), wanted)
    return found.result()


def test_the_right_dictionary_loses_nothing(rows):
    directions, x = rows
    found = measured(sae_of(directions, k=3), x)
    assert found.fvu < 1e-10 and found.l0 == 3 and found.l0_std == 0 and found.dead == 0
    assert found.cosine == pytest.approx(1) and found.norm_ratio == pytest.approx(1)


def test_figures_are_those_of_numpy(rows):
    directions, x = rows
    sae = sae_of(directions[:10], arch="relu", scale=(2.0,))
    found = measured(sae, x)
    codes = np.maximum(2 * x.double().numpy() @ directions[:10].double().numpy().T, 0)
    y = codes @ directions[:10].double().numpy() / 2
    codes[codes < 1e-6] = 0
    exact = x.double().numpy()
    assert found.fvu == pytest.approx(
        ((y - exact) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum(), rel=1e-5
    )
    assert found.fvu_by_site == {SITE: pytest.approx(found.fvu)}
    assert found.mse == pytest.approx(((y - exact) ** 2).mean(), rel=1e-5)
    lengths = np.linalg.norm(y, axis=1), np.linalg.norm(exact, axis=1)
    cosine = (y * exact).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-300)
    assert found.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    np.testing.assert_allclose(found.max_active, codes.max(0), rtol=1e-5)
    own = np.where(codes > 0, codes, np.nan)
    seen = found.density > 0
    assert seen.all() and found.histogram()[0].sum() == 10
    # Rounding leaves a few activations of 1e-8 where there should be none; the means feel them little.
    assert (found.density >= (codes > 0).mean(0) - 1e-12).all()
    assert (found.mean_active <= np.nanmean(own, 0) * (1 + 1e-5)).all()


def test_rows_of_zeros_have_no_direction(rows):
    directions, x = rows
    padded = torch.cat([x[:40], torch.zeros(24, 16)])
    sae = sae_of(directions[:10], k=3)
    found, without = measured(sae, padded), measured(sae, x[:40])
    assert found.cosine == pytest.approx(without.cosine)
    assert found.norm_ratio == pytest.approx(without.norm_ratio)
    nothing = measured(sae, torch.zeros(8, 16))
    assert np.isnan(nothing.cosine) and np.isnan(nothing.norm_ratio) and np.isnan(nothing.fvu)


def test_dead_latents_and_files(rows, tmp_path):
    directions, x = rows
    both = torch.cat([directions, torch.zeros(4, 16)])
    found = measured(sae_of(both, k=3), x)
    assert found.dead == pytest.approx(4 / 20) and found.histogram()[0].sum() == 16
    path = found.save(tmp_path / "m.json")
    assert json.loads(path.read_text())["density"][-1] == 0
    assert "fvu" in repr(found) and len(found.to_pandas()) == 20
    with pytest.raises(ArgumentError, match="ends in"):
        found.save(tmp_path / "m.csv")


def test_bad_rows(rows):
    directions, x = rows
    sae = sae_of(directions, k=3)
    wrong = x[:8].clone()
    wrong[5, 1] = torch.nan
    measures = Measures(sae.spec)
    with pytest.raises(NonFiniteError, match="row 5 of a batch of 8"):
        measures.update(sae.encode(x[:8]), x[:8], wrong)
    with pytest.raises(ArgumentError, match="no rows"):
        measures.result()


@pytest.mark.parametrize("k", [1, 4, 16])
def test_pca_keeps_the_largest_components(rows, k):
    directions, _ = rows
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(400, 16, generator=generator) @ (directions * torch.linspace(0.2, 3, 16)[:, None]) + 7
    sae = pca_sae(SAESpec("relu", 99, (SITE,), (16,)), k, [(b, b) for b in x.split(100)])
    assert sae.spec.latents == 32 and sae.spec.k == k
    exact = x.double().numpy() - x.double().numpy().mean(0)
    parts = exact @ np.linalg.svd(exact, full_matrices=False)[2].T
    left = np.sort(parts**2, axis=1)[:, : 16 - k].sum()
    found = measured(sae, x)
    assert found.fvu == pytest.approx(left / (exact**2).sum(), rel=1e-3, abs=1e-9)
    assert found.l0 == k


def test_pca_of_a_transcoder_is_least_squares():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(500, 6, generator=generator) + 2
    y = x @ torch.randn(6, 4, generator=generator) + torch.randn(500, 4, generator=generator) - 5
    spec = SAESpec("topk", 9, ("a",), (6,), ("b",), (4,), k=2)
    sae = pca_sae(spec, 6, [(x, y)])
    design = torch.cat([x, torch.ones(500, 1)], 1)
    best = design @ torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(sae(x), best, rtol=1e-3, atol=1e-3)


def test_overlap_of_known_directions():
    planted = orthonormal(16, seed=2)
    shuffled = planted[torch.randperm(16, generator=torch.Generator().manual_seed(0))] * 3
    same = overlap(planted, shuffled)
    assert same.mean_max == pytest.approx(1) and same.shared == 1 and 0.2 < same.chance < 0.8
    torch.testing.assert_close(shuffled[torch.from_numpy(same.other)], planted * 3)
    half = overlap(planted, sae_of(planted[:8], k=1))
    assert half.shared == 0.5 and half.mean_max == pytest.approx(0.5, abs=1e-6)
    assert "50.0% of 16 shared" in str(half)
    with pytest.raises(ArgumentError, match="one width"):
        overlap(planted, planted[:, :4])
