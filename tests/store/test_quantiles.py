"""Quantiles by passes over blocks against sorting everything."""

import numpy as np
import pytest
import torch

from mmxai.store import create_store, open_store
from mmxai.store.quantiles import exact_quantiles, sample_quantiles

LEVELS = torch.tensor([0.0, 0.013, 0.5, 0.77, 0.99, 1.0], dtype=torch.float64)


def sample(dtype: torch.dtype) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 7, generator=g) * 10.0 ** torch.arange(-3, 4)
    x[:, 1] = x[:, 1].round()  # ties, and zeros of both signs
    x[:, 2] = torch.where(torch.rand(2000, generator=g) < 0.2, torch.nan, x[:, 2])
    x[::3, 3], x[1::7, 3] = torch.inf, -torch.inf
    x[:, 4] = torch.nan
    x[:, 5] = 3.0
    x[:, 6] = torch.where(torch.arange(2000) == 11, x[:, 6], torch.nan)
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exact_is_what_sorting_gives(dtype):
    x = sample(dtype)
    got = exact_quantiles(lambda: x.split(300), x.shape[1], LEVELS)
    torch.testing.assert_close(got, sample_quantiles(x.float(), LEVELS), rtol=0, atol=0, equal_nan=True)
    for j in (0, 1, 2, 3):
        v = x[:, j].double().numpy()
        want = np.quantile(v[np.isfinite(v)], LEVELS.numpy())
        np.testing.assert_allclose(got[:, j], want, rtol=1e-6, atol=1e-6 * np.abs(v[np.isfinite(v)]).max())


def test_no_rows():
    x = torch.empty(0, 3)
    assert exact_quantiles(list, 3, LEVELS).isnan().all()
    assert exact_quantiles(lambda: [x], 3, LEVELS).isnan().all()


def test_of_a_store(tmp_path):
    """The sample is within its bound of the exact quantile, which passes over all parts."""
    x = torch.randn(6000, 5, generator=torch.Generator().manual_seed(1))
    with create_store(tmp_path / "s", {"a": 5}, samples_per_part=1700, durable=False) as store:
        store.write(range(6000), {"a": x})
    stats = open_store(tmp_path / "s").stats["a"]
    exact = stats.quantile([0.1, 0.9], exact=True)
    assert torch.equal(
        exact, stats.quantile([0.1, 0.9])
    )  # no more rows than a sample has: that is exact, too
    assert torch.equal(stats.quantile(0.9, exact=True), exact[1])
    near = stats.quantile([0.1, 0.9], rows=2000)
    stored = x.bfloat16().float()
    bound = np.sqrt(np.log(2 / 1e-4) / (2 * 2000))
    for level, values in zip((0.1, 0.9), near, strict=True):
        assert (((stored <= values).double().mean(0) - level).abs() < bound + 0.01).all()


def test_values_far_apart():
    x = torch.tensor([[-3e38], [3e38]])
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for got in (sample_quantiles(x, levels), exact_quantiles(lambda: [x], 1, levels)):
        assert got.flatten().tolist() == [x[0].item(), 0, x[1].item()]
