import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import log_products as module
from mmxai.kernels.log_products import log_norms, log_products
from tests.kernels.conformance import SumTests


class TestLogProducts(SumTests):
    op = module.OP
    tolerance = 1e-6

    @staticmethod
    def cases():
        for pictures, words in ((1, 1), (50, 16), (30, 37), (200, 64)):
            for units, k in ((1, 1), (5, 7), (9, 100)):
                for low in (0.97, 0.0, 1.0):
                    yield f"{pictures}x{words}-{units}x{k}-{low}", (pictures, words, units, k, low)

    def call(self, case, backend, device, poison, threads=1):
        pictures, words, units, k, low = case
        g = torch.Generator().manual_seed(k)
        p = torch.randn(pictures, words, generator=g).mul(4).softmax(1)
        p[0, ::2], p[-1, 1::2] = 0, 1
        tops = torch.randint(0, pictures, (units, k), generator=g)
        tops[0] = 0
        weights = torch.linspace(0.998 if low < 1 else 1, low, k)
        got = log_products(
            p.to(device), tops.to(device), weights.to(device), threads=threads, backend=backend
        )
        return [got.cpu().numpy()]

    @pytest.mark.parametrize("words", [1, 16, 37, 2100])
    def test_softmax_and_marginal(self, backend, words):
        """Against torch in float64; blocks of words have the norms of all."""
        g = torch.Generator().manual_seed(0)
        x = torch.randn(60, words, generator=g).to(backend[1])
        x[3] += 30
        tops = torch.randint(0, 60, (23, 11), generator=g).to(backend[1])
        weights = torch.linspace(0.998, 0.97, 11).to(backend[1])
        norms = log_norms(x, 5.0, threads=2, backend=backend[0])
        torch.testing.assert_close(norms, (5 * x.double()).logsumexp(1).float(), rtol=3e-7, atol=1e-6)
        p = (5 * x.double()).softmax(1)
        want = torch.stack([(1 + weights.double()[:, None] * (p[t] - 1) + 1e-7).log().sum(0) for t in tops])
        tolerance = {"rtol": 1e-6, "atol": 1e-5}
        for marginal in (0.0, 0.5, 1.0):
            scores = (want - marginal * (want.logsumexp(0) - np.log(23))).float()
            options = {"scale": 5.0, "marginal": marginal, "backend": backend[0], "threads": 2}
            torch.testing.assert_close(log_products(x, tops, weights, **options), scores, **tolerance)
            part = log_products(x[:, words // 3 :], tops, weights, norms=norms, **options)
            torch.testing.assert_close(part, scores[:, words // 3 :], **tolerance)

    def test_rows_apart_and_no_units(self, backend):
        p = torch.rand(30, 64, generator=torch.Generator().manual_seed(0)).to(backend[1])
        tops, weights = torch.arange(6, dtype=torch.int32).reshape(2, 3), torch.tensor([0.9, 0.5, 0.1])
        on = {"tops": tops.to(backend[1]), "weights": weights.to(backend[1])}
        for view in (p[::2], p[:, 3:50], p.T, p[:, ::2]):
            got = log_products(view, **on, backend=backend[0])
            want = log_products(view.cpu().contiguous(), tops, weights, backend="reference")
            torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-6)
        assert log_products(p, on["tops"][:0], on["weights"], backend=backend[0]).shape == (0, 64)

    def test_what_is_no_probability(self, backend):
        weights, tops = torch.ones(1).to(backend[1]), torch.zeros(1, 1).long().to(backend[1])
        for wrong in (-0.1, 1.1, float("nan"), float("inf")):
            p = torch.full((3, 43), 0.5)
            for word in (33, 42):
                p[2, word] = wrong
                with pytest.raises(ArgumentError, match="expected probabilities"):
                    log_products(p.to(backend[1]), tops, weights, backend=backend[0])
                if not np.isfinite(wrong):
                    with pytest.raises(ArgumentError, match="expected finite similarities"):
                        log_products(p.to(backend[1]), tops, weights, scale=2.0, backend=backend[0])
                p[2, word] = 0.5


def test_it_is_clip_dissects_loop():
    """As the paper's code does it, a unit at a time, in NumPy and float64."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(300) * 0.05, 80).astype(np.float32)
    activations = rng.normal(size=(80, 12))
    tops = np.argsort(-activations, axis=0)[:40].T.copy()
    weights = np.linspace(0.998, 0.97, 40)
    got = log_products(torch.from_numpy(p), torch.from_numpy(tops), torch.from_numpy(weights).float())
    for unit in range(12):
        want = np.log(1 + weights[:, None] * (p[tops[unit]].astype(np.float64) - 1) + 1e-7).sum(0)
        np.testing.assert_allclose(got[unit], want, rtol=2e-6)


GOOD = {"p": torch.rand(5, 4), "tops": torch.zeros(2, 3).long(), "weights": torch.ones(3)}


@pytest.mark.parametrize(
    "changed",
    [
        {"p": torch.rand(5)}, {"p": torch.rand(5, 4).double()}, {"tops": torch.zeros(3).long()},
        {"tops": torch.zeros(2, 3)}, {"tops": torch.full((2, 3), 5)}, {"tops": torch.full((2, 3), -1)},
        {"weights": torch.ones(2)}, {"weights": torch.ones(3).double()}, {"weights": 2 * torch.ones(3)},
        {"weights": -torch.ones(3)}, {"floor": 0.0}, {"scale": float("nan")}, {"norms": torch.ones(5)},
        {"norms": torch.ones(4), "scale": 1.0}, {"norms": torch.ones(5).double(), "scale": 1.0},
    ],
    ids=range(15),
)  # fmt: skip
def test_bad_arguments(changed):
    with pytest.raises(ArgumentError, match="expected"):
        log_products(**GOOD | changed)
