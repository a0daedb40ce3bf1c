"""What penalties are shares of, and scores of every penalty at once."""

import pytest
import torch

from mmxai.methods.probe.closed import Linear
from mmxai.methods.probe.site_probes import scatter, scores_of


def test_scatter_is_the_mean_variance():
    """Whatever is added to all rows; of columns that are constant, exactly none, for which 1 stands in."""
    x = torch.randn(500, 7) * torch.arange(7)
    expected = float(x.double().var(0, correction=0).mean())
    assert scatter(x) == pytest.approx(expected, rel=1e-5)
    assert scatter(x + 1e3) == pytest.approx(expected, rel=1e-3)
    assert scatter(torch.full((999, 3), 0.1)) == 1.0
    assert scatter(torch.cat([x, torch.full((500, 7), 0.3)], 1)) == pytest.approx(expected / 2, rel=1e-5)


def test_scores_of_every_penalty():
    x = torch.randn(20, 5)
    probe = Linear(torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64))
    found = scores_of(probe, x)
    assert found.dtype == torch.float32 and found.shape == (3, 20, 4)
    for p in range(3):
        expected = x.double() @ probe.coef[p] + probe.intercept[p]
        torch.testing.assert_close(found[p].double(), expected, atol=1e-5, rtol=1e-5)
