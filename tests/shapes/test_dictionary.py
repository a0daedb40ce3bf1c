"""The synthetic source has the sparsity, correlation and dictionary that it states."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.shapes.dictionary import Dictionary


def test_activations_are_codes_times_directions():
    source = Dictionary(96, 24, probability=0.05)
    found = source.rows(range(1000))
    torch.testing.assert_close(found.x, found.codes @ source.directions)
    torch.testing.assert_close(source.directions.norm(dim=1), torch.ones(96))
    active = found.codes[found.codes > 0]
    assert active.min() >= 0.5 and active.max() <= 1.5 and abs(active.mean() - 1) < 0.02


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_stated_sparsity_and_correlation(correlation):
    source = Dictionary(32, 8, probability=0.1, correlation=correlation, group=4)
    active = (source.codes(range(20_000)) > 0).numpy()
    assert np.allclose(active.mean(0), 0.1, atol=0.015)
    found = np.corrcoef(active.T)
    same = np.arange(32)[:, None] // 4 == np.arange(32) // 4
    pairs = ~np.eye(32, dtype=bool)
    assert abs(found[same & pairs].mean() - correlation) < 0.02
    assert abs(found[~same].mean()) < 0.01 and np.abs(found[~same]).max() < 0.06


def test_a_row_is_a_pure_function_of_settings_and_number():
    source, again = Dictionary(64, 16, noise=0.1, seed=4), Dictionary(64, 16, noise=0.1, seed=4)
    assert torch.equal(source.codes(range(100))[40:50], again.codes(range(40, 50)))
    torch.testing.assert_close(source[0:100][40:50], again[40:50])
    torch.testing.assert_close(source[[7, 3]], source[0:8][[7, 3]])
    assert not torch.equal(source[0:10], Dictionary(64, 16, noise=0.1, seed=5)[0:10])
    far = 1 << 40
    assert source[far : far + 3].shape == (3, 16)


def test_noise_and_importance():
    clean, noisy = Dictionary(64, 32, seed=1), Dictionary(64, 32, seed=1, noise=0.2)
    extra = noisy[0:5000] - clean[0:5000]
    assert abs(extra.std().item() - 0.2) < 0.01 and abs(extra.mean().item()) < 0.01
    importance = Dictionary(4, 2, decay=0.5).importance
    assert importance.tolist() == [1, 0.5, 0.25, 0.125]


def test_bad_settings():
    for wrong in ({"probability": 0}, {"correlation": 1.5}, {"features": 0}, {"decay": 0}):
        with pytest.raises(ArgumentError, match="dictionary: got"):
            Dictionary(**wrong)
    with pytest.raises(ArgumentError, match="without an end"):
        Dictionary()[5:]
