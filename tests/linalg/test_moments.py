"""Streaming moments against numpy over all rows at once."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg import Moments


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    return mixed + 1000  # an offset that would cost float32 sums of squares their digits


def test_blocks_make_the_whole(rows):
    whole, parts, other = Moments(6), Moments(6), Moments(6)
    whole.update(rows)
    for block in rows[:300].split(7):
        parts.update(block)
    other.update(rows[300:])
    parts.update(rows[:0])
    parts.merge(other)
    exact = rows.numpy().astype(np.float64)
    for moments in (whole, parts):
        assert moments.count == 500
        np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(exact.T, bias=True), rtol=1e-8, atol=1e-10)


def test_components_are_those_of_the_svd(rows):
    moments = Moments(6)
    moments.update(rows)
    directions, variances = moments.components(3)
    exact = rows.double() - rows.double().mean(0)
    _, scale, right = torch.linalg.svd(exact, full_matrices=False)
    torch.testing.assert_close(variances, (scale**2 / 500)[:3], rtol=1e-8, atol=0)
    torch.testing.assert_close((directions * right[:3]).sum(1).abs(), torch.ones(3, dtype=torch.float64))


def test_bad_input(rows):
    moments = Moments(6)
    rows[3, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="row 3"):
        moments.update(rows)
    with pytest.raises(ArgumentError, match="expected floats of shape"):
        moments.update(rows[:, :5].long())
    with pytest.raises(ArgumentError, match="k=7"):
        moments.components(7)
