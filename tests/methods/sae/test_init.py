"""First weights: how long a tied encoder's rows are."""

import pytest
import torch

from mmxai.methods.sae import SAESpec, TrainConfig
from mmxai.methods.sae.init import GAIN_ROWS, begin

D, M, K = 12, 96, 4


@pytest.fixture
def x():
    """Off centre, and of few directions, so that random ones overlap along them."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(900, 3, generator=draw) @ torch.randn(3, D, generator=draw) + 2


def begun(arch, x, **fields):
    spec = SAESpec(arch, M, ("a",), (D,), k=K if arch != "relu" else None, **fields)
    return begin(spec, TrainConfig(arch=arch, latents=M, k=K), {"a": x}).sae


@pytest.mark.parametrize(
    ("arch", "fields"),
    [("topk", {}), ("topk", {"centred": False}), ("batchtopk", {}), ("matryoshka", {"prefixes": (8, M)})],
)
def test_tied_rows_bring_the_first_reconstruction_nearest(arch, fields, x):
    sae = begun(arch, x, **fields)
    lengths = sae.W_enc.norm(dim=1)
    assert lengths.max() - lengths.min() < 1e-5 and lengths[0] < 0.8
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(M))
    torch.testing.assert_close(sae.W_enc, sae.W_dec * lengths[0])

    away = (x - sae.b_dec)[:GAIN_ROWS].double()
    seen = away if sae.spec.centred else (x - x.mean(0))[:GAIN_ROWS].double()
    pre = seen @ sae.W_dec.double().T
    top = pre.topk(K, dim=1)
    made = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu()) @ sae.W_dec.double()

    def lost(length):
        return float((away - length * made).square().sum())

    at = float(lengths[0])
    slack = 1e-6 if sae.spec.centred else 1e-2  # of the mean for the median
    assert lost(at) <= min(lost(at * 0.95), lost(at * 1.05)) * (1 + slack)
    assert lost(at) < 0.8 * lost(1.0)


def test_other_encoders_keep_length_one(x):
    torch.testing.assert_close(begun("relu", x).W_enc.norm(dim=1), torch.ones(M))
    spec = SAESpec("topk", M, ("a",), (D,), k=K)
    untied = begin(spec, TrainConfig(latents=M, k=K, init="untied"), {"a": x}).sae
    torch.testing.assert_close(untied.W_enc.norm(dim=1), torch.ones(M))
