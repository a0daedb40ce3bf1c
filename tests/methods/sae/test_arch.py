"""How architectures choose: BatchTopK's blocks against one sort of all, JumpReLU's window, schedules."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.sae import SAE, SAESpec, TrainConfig
from mmxai.methods.sae.arch import make_arch
from mmxai.methods.sae.init import begin, geometric_median
from mmxai.methods.sae.schedule import Schedule


def weights(arch, latents=50, **fields):
    return SAE.zeros(SAESpec(arch, latents, ("a",), (8,), **fields))


def chosen(arch, sae, pre, bias, block):
    choice = arch.begin(sae, len(pre))
    for first in range(0, len(pre), block):
        choice.block(pre[first : first + block].clone(), bias, first)
    return choice, choice.finish()


@pytest.mark.parametrize("block", [5, 16, 64])
def test_batchtopk_takes_the_batchs_largest(block):
    draw = torch.Generator().manual_seed(0)
    sae = weights("batchtopk", k=4)
    arch = make_arch(sae.spec, TrainConfig(arch="batchtopk"))
    for growth in (1.0, 1.02, 3.0, 0.1, 0.1):  # a good guess, and such as are too low and too high
        pre = torch.randn(64, 50, generator=draw) * growth
        bias = 0.1 * torch.randn(50, generator=draw)
        _, codes = chosen(arch, sae, pre, bias, block)
        arch.after(sae, codes)
        full = (pre + bias).relu()
        least = full.flatten().topk(64 * 4).values[-1]
        torch.testing.assert_close(codes.dense(), full * (full >= least))
    assert (sae.threshold == sae.threshold[0]).all() and sae.threshold[0] > 0


def test_batchtopk_with_few_positive_values():
    sae = weights("batchtopk", k=4)
    arch = make_arch(sae.spec, TrainConfig(arch="batchtopk"))
    pre = -torch.ones(10, 50)
    pre[3, 7] = 2.0
    _, codes = chosen(arch, sae, pre, torch.zeros(50), 4)
    assert codes.values.tolist() == [2.0] and codes.indices.tolist() == [7]


def test_the_threshold_is_a_running_mean():
    sae = weights("batchtopk", k=1)
    arch = make_arch(sae.spec, TrainConfig(arch="batchtopk"))
    seen = []
    for least in (0.5, 0.7, 0.6):
        pre = torch.full((2, 50), -1.0)
        pre[0, 0], pre[1, 1] = least, 2.0
        arch.after(sae, chosen(arch, sae, pre, torch.zeros(50), 2)[1])
        seen.append(least)
    shares = torch.tensor([0.99**i for i in (2, 1, 0)])
    expected = float((shares * torch.tensor(seen)).sum() / shares.sum())
    assert float(sae.threshold[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", [None, 3.0])
def test_jumprelu_gradient_is_that_of_the_smoothed_step(target):
    """Averaged over a window, a step is a ramp: its slope is what the estimate stands for."""
    config = TrainConfig(arch="jumprelu", bandwidth=0.2, target_l0=target, penalty=0.7)
    sae = weights("jumprelu")
    sae.threshold.fill_(0.5)
    arch = make_arch(sae.spec, config)
    pre = torch.rand(4000, 50, generator=torch.Generator().manual_seed(1))
    choice, codes = chosen(arch, sae, pre, torch.zeros(50), 1000)
    assert torch.equal(codes.dense(), pre * (pre > 0.5))
    found = choice.backward(codes, torch.zeros_like(codes.values))

    def penalty(threshold):
        return float(arch.charge((pre > threshold).sum().double() / len(pre))[0])

    slope = (penalty(0.55) - penalty(0.45)) / 0.1
    assert float(found.d_threshold.sum()) == pytest.approx(slope, rel=0.05)
    assert float(found.penalty) == pytest.approx(penalty(0.5))
    # And of the reconstruction: a value lost at the threshold costs threshold x its gradient.
    plain = choice.backward(codes, torch.ones_like(codes.values))
    extra = float((plain.d_threshold - found.d_threshold).sum())
    assert extra == pytest.approx(-0.5 * 4000 * 50, rel=0.05)
    assert plain.d_pre.tolist() == (codes.values > 0).float().tolist()


def test_relu_charges_the_sum():
    sae = weights("relu")
    arch = make_arch(sae.spec, TrainConfig(arch="relu", penalty=0.3), norm=2.0)
    pre = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    choice, codes = chosen(arch, sae, pre, torch.zeros(50), 7)
    found = choice.backward(codes, torch.zeros_like(codes.values))
    assert float(found.penalty) == pytest.approx(0.15 * float(pre.relu().sum()) / 20)
    assert found.d_pre.unique().tolist() == pytest.approx([0.15 / 20])


def test_schedule():
    schedule = Schedule.of(TrainConfig(latents=16384, warmup=10, decay=0.5, penalty_warmup=0.2, lr=2e-4), 100)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-5) and rates[9] == rates[49] == pytest.approx(2e-4)
    assert rates[75] == pytest.approx(1e-4) and 0 < rates[99] < 5e-6
    assert schedule.ramp(0) == pytest.approx(1 / 20) and schedule.ramp(19) == schedule.ramp(99) == 1
    assert Schedule.of(TrainConfig(), 100).warmup == 5


def test_default_rate_is_higher_in_short_runs_and_falls_with_width():
    rates = [TrainConfig(latents=16384).lr_of(steps) for steps in (1, 50, 1250, 5000, 10**6)]
    assert rates == pytest.approx([16e-4, 16e-4, 4e-4, 2e-4, 2e-4])
    assert TrainConfig(latents=4096).lr_of(5000) == pytest.approx(4e-4)
    assert TrainConfig(latents=4096, lr=1e-5).lr_of(50) == 1e-5


def test_geometric_median_ignores_outliers():
    x = torch.randn(501, 3, generator=torch.Generator().manual_seed(0))
    x[:50] += 1e4
    found = geometric_median(x)
    assert found.norm() < 0.4 < x.mean(0).norm()
    away = torch.linalg.vector_norm(x - found, dim=1)
    pull = ((x - found) / away[:, None]).sum(0)  # 0 where the summed distance is least
    assert pull.norm() < 1


def test_a_skip_path_begins_as_the_least_squares_map():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 8, generator=draw) @ torch.randn(8, 8, generator=draw) + 3
    W, noise = torch.randn(5, 8, generator=draw), torch.randn(3000, 5, generator=draw)
    y = x @ W.T + 2 + 0.1 * noise
    spec = SAESpec("topk", 16, ("a",), (8,), ("b",), (5,), k=2, skip=True, scale=(0.5,), scale_out=(2.0,))
    config = TrainConfig(latents=16, k=2, sites_out=("b",), skip=True, center="mean")
    sae = begin(spec, config, {"a": x, "b": y}).sae
    full = np.linalg.lstsq(np.c_[x.numpy(), np.ones(3000)], y.numpy(), rcond=None)[0]
    torch.testing.assert_close(sae.W_skip.numpy() / 4, full[:8].T, atol=2e-3, rtol=1e-2, check_dtype=False)
    with_no_latent = (x * 0.5) @ sae.W_skip.T / 2 + sae.b_dec / 2
    assert float((with_no_latent - y).square().mean()) < 1.05 * 0.01
    pre = 0.5 * x @ sae.W_enc.T + sae.b_enc
    assert pre.mean(0).abs().max() < 1e-4


def test_nested_prefixes():
    assert TrainConfig(arch="matryoshka", latents=64).nested() == (2, 6, 14, 30, 64)
    assert TrainConfig(arch="topk").nested() == ()
    with pytest.raises(ArgumentError, match="at least 1"):
        TrainConfig(latents=0)
