"""A step against dense autograd and finite differences, for every way of choosing codes."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes
from mmxai.kernels.select_above import select_above
from mmxai.kernels.topk_rows import topk_rows
from mmxai.methods.sae import workspace as rule
from mmxai.methods.sae.adam import Adam
from mmxai.methods.sae.arch import batchtopk, topk
from mmxai.methods.sae.auxk import AuxK
from mmxai.methods.sae.step import CodeGradient, Workspace, gradients, step

ROWS, D, M, K = 60, 24, 160, 6
L1, WIDTH, L0 = 0.003, 0.4, 0.002


@dataclass
class TopK:
    prefixes: tuple[int, ...] = ()

    def begin(self, weights, rows):
        self.found = []
        return self

    def block(self, product, bias, first_row):
        values, indices = topk_rows(product, K, bias=bias)
        self.found.append(Codes.fixed(values.clamp_(min=0), indices, M))

    def finish(self):
        return Codes.cat(self.found)

    def backward(self, codes, d_values):
        return CodeGradient(d_values.mul_(codes.values > 0))

    @staticmethod
    def dense(pre, weights):
        """(activations, penalty), for autograd."""
        kept = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)
        return pre.relu() * kept, 0.0


class Relu(TopK):
    def block(self, product, bias, first_row):
        self.found.append(select_above(product, 0.0, bias=bias))

    def backward(self, codes, d_values):
        return CodeGradient(d_values + L1, penalty=L1 * float(codes.values.double().sum()))

    @staticmethod
    def dense(pre, weights):
        return pre.relu(), L1 * pre.relu().sum()


class Jump(torch.autograd.Function):
    """pre where it is above the threshold; a rectangle's straight-through gradient (arXiv:2407.14435)."""

    @staticmethod
    def forward(ctx, pre, threshold):
        ctx.save_for_backward(pre, threshold)
        return pre * (pre > threshold), (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, d_value, d_on):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < WIDTH / 2) / WIDTH
        return d_value * (pre > threshold), -(near * (threshold * d_value + d_on)).sum(0)


class JumpRelu(TopK):
    def begin(self, weights, rows):
        self.threshold = weights.threshold.detach()
        return super().begin(weights, rows)

    def block(self, product, bias, first_row):
        self.found.append(select_above(product, self.threshold - WIDTH / 2, bias=bias))

    def finish(self):
        codes = super().finish()
        self.pre, self.at = codes.values, self.threshold[codes.indices.long()]
        return replace(codes, values=torch.where(self.pre > self.at, self.pre, 0.0))

    def backward(self, codes, d_values):
        near = ((self.pre - self.at).abs() < WIDTH / 2) / WIDTH
        d_threshold = -codes.sum_by_latent(near * (self.at * d_values + L0))
        on = self.pre > self.at
        return CodeGradient(d_values * on, d_threshold, penalty=L0 * int(on.sum()))

    @staticmethod
    def dense(pre, weights):
        value, on = Jump.apply(pre, weights.threshold)
        return value, L0 * on.sum()


ARCHES = {
    "topk": TopK(),
    "matryoshka": TopK((20, 50, M)),
    "relu": Relu(),
    "jumprelu": JumpRelu(),
}


def make(arch, width_out=D, skip=False, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g)

    W_dec = torch.nn.functional.normalize(normal(M, width_out), dim=1)
    return (
        SimpleNamespace(
            W_enc=normal(M, D) / D**0.5,
            b_enc=normal(M) * 0.1 - (1.5 if isinstance(arch, Relu | JumpRelu) else 0.0),
            W_dec=W_dec,
            b_dec=normal(width_out) * 0.1,
            threshold=torch.rand(M, generator=g) * 0.3 + 0.2 if isinstance(arch, JumpRelu) else None,
            W_skip=normal(width_out, D) * 0.1 if skip else None,
        ),
        normal(ROWS, D),
        normal(ROWS, width_out),
    )


def autograd(weights, arch, x, target, scale, centred, aux=None, shares=None, dtype=torch.float64):
    """(loss, gradients by name), dense."""
    held = {n: w.to(dtype, copy=True).requires_grad_() for n, w in vars(weights).items() if w is not None}
    w = SimpleNamespace(threshold=None, W_skip=None)
    vars(w).update(held)
    x, target = x.to(dtype), target.to(dtype)
    pre = (x - w.b_dec if centred else x) @ w.W_enc.T + w.b_enc
    acts, penalty = arch.dense(pre, w)
    base = w.b_dec if w.W_skip is None else w.b_dec + x @ w.W_skip.T
    ends = arch.prefixes or (M,)
    shares = shares or [1 / len(ends)] * len(ends)
    recons = [base + acts[:, :end] @ w.W_dec[:end] for end in ends]
    loss = penalty + sum(scale * s * (r - target).square().sum() for r, s in zip(recons, shares, strict=True))
    if aux is not None:
        residual = (target - recons[-1]).detach()
        dead = pre[:, aux.latents].relu()
        keep = torch.zeros_like(dead).scatter(1, dead.topk(min(aux.k, dead.shape[1])).indices, 1.0)
        off = (dead * keep @ w.W_dec[aux.latents] - residual).square().sum()
        unit = 1 / (residual - residual.mean(0)).square().sum() if aux.relative else scale
        loss = loss + aux.coef * unit * off
    loss.backward()
    return float(loss.detach()), {n: h.grad for n, h in held.items()}


def close(got, want, name=""):
    size = float(want.abs().max())
    assert float((got.double() - want.double()).abs().max()) <= 1e-5 * max(size, 1e-3), name


def check(weights, arch, x, target, *, centred=False, aux=None, shares=None, **options):
    want_loss, want = autograd(weights, arch, x, target, 1 / ROWS, centred, aux, shares)
    found, result = gradients(
        weights, arch, x, target, scale=1 / ROWS, centred=centred, aux=aux, prefix_weights=shares,
        project=False, workspace=Workspace(block_rows=17), **options,
    )  # fmt: skip
    assert result.loss == pytest.approx(want_loss, rel=1e-5)
    assert set(found) == set(want)
    for name, g in want.items():
        close(found[name], g, name)
    total = sum(float(g.square().sum()) for g in want.values())
    assert result.grad_norm == pytest.approx(total**0.5, rel=1e-5)
    return result


@pytest.fixture(params=["sparse", "dense"])
def density(request, monkeypatch):
    """Both sides of the rule, whatever the density of these small codes."""
    monkeypatch.setattr(rule, "DENSE_ABOVE", {"sparse": 1.0, "dense": 0.0}[request.param])


@pytest.mark.parametrize("centred", [True, False], ids=["centred", "plain"])
@pytest.mark.parametrize("name", ARCHES)
def test_equals_dense_autograd(name, centred, density):
    arch = ARCHES[name]
    result = check(*make(arch)[:1], arch, *make(arch)[1:], centred=centred)
    assert result.fired.sum() == (result.codes.values > 0).sum() > 0


def test_transcoder_with_a_skip(density):
    weights, x, target = make(TopK(), width_out=11, skip=True)
    check(weights, TopK(), x, target)


def test_matryoshka_with_other_shares(density):
    arch = ARCHES["matryoshka"]
    weights, x, target = make(arch)
    check(weights, arch, x, target, shares=[0.5, 0.0, 2.0], centred=True)


@pytest.mark.parametrize("relative", [False, True], ids=["scaled", "relative"])
@pytest.mark.parametrize("k", [3, 64], ids=["some", "all"])
def test_auxk(k, relative, density):
    weights, x, target = make(TopK())
    dead = torch.randperm(M, generator=torch.Generator().manual_seed(1))[:30].sort().values
    result = check(weights, TopK(), x, target, centred=True, aux=AuxK(dead, k, 0.1, relative))
    assert result.loss == pytest.approx(result.reconstruction + result.aux) and result.aux > 0


def test_auxk_without_dead_latents():
    weights, x, target = make(TopK())
    none = AuxK(torch.empty(0, dtype=torch.int64), 3)
    assert gradients(weights, TopK(), x, target, scale=1.0, centred=True, aux=none)[1].aux == 0


def test_finite_differences():
    """The slope of the loss along random directions, where no choice changes."""
    arch, scale = TopK((30, M)), 1 / ROWS
    weights, x, target = make(arch)
    found, result = gradients(weights, arch, x, target, scale=scale, centred=True, project=False)
    at = vars(weights)
    for name, g in found.items():
        direction = torch.randn(g.shape, generator=torch.Generator().manual_seed(3)).double()
        slope, step_size = float((g.double() * direction).sum()), 1e-7
        losses = []
        for sign in (1, -1):
            moved = {n: w.double() for n, w in at.items() if w is not None}
            moved[name] = moved[name] + sign * step_size * direction
            w = SimpleNamespace(threshold=None, W_skip=None, **{n: moved[n] for n in moved})
            pre = (x.double() - w.b_dec) @ w.W_enc.T + w.b_enc
            acts = pre.relu() * (result.codes.dense() > 0)
            recons = [w.b_dec + acts[:, :end] @ w.W_dec[:end] for end in arch.prefixes]
            losses.append(sum(scale / 2 * (r - target).square().sum() for r in recons))
        assert slope == pytest.approx(float(losses[0] - losses[1]) / (2 * step_size), rel=1e-4, abs=1e-5)


def test_projection_and_clip():
    """`step` against torch's own Adam on projected and clipped dense gradients, three times."""
    arch = TopK()
    weights, x, target = make(arch)
    twin = make(arch)[0]
    tensors = {n: w for n, w in vars(twin).items() if w is not None}
    adam, theirs = Adam(weights), torch.optim.Adam(tensors.values(), lr=0.01)
    for _ in range(3):
        _, want = autograd(twin, arch, x, target, 1 / ROWS, True, dtype=torch.float32)
        want["W_dec"] -= (want["W_dec"] * twin.W_dec).sum(1, keepdim=True) * twin.W_dec
        for n, w in tensors.items():
            w.grad = want[n]
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), 0.05)
        theirs.step()
        twin.W_dec /= twin.W_dec.norm(dim=1, keepdim=True)
        result = step(
            weights, arch, x, target, adam, lr=0.01, scale=1 / ROWS, centred=True, clip=0.05,
        )  # fmt: skip
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
    for n, w in tensors.items():
        # Adam divides by a gradient's size: where that is tiny its rounding is seen.
        assert float((getattr(weights, n) - w).abs().max()) < 1e-3, n
        assert float((getattr(weights, n) - w).abs().mean()) < 1e-5, n
    assert torch.allclose(weights.W_dec.norm(dim=1), torch.ones(M))


def test_frozen_weights_stay():
    weights, x, target = make(TopK())
    before = weights.W_dec.clone()
    found, result = gradients(weights, TopK(), x, target, scale=1.0, centred=True, frozen=["W_dec"])
    total = sum(float(g.double().square().sum()) for g in found.values())
    assert result.grad_norm == pytest.approx(total**0.5, rel=1e-5)
    step(weights, TopK(), x, target, Adam(weights), lr=0.1, scale=1.0, centred=True, frozen=["W_dec"])
    assert torch.equal(weights.W_dec, before)
    with pytest.raises(ArgumentError, match="expected names of weights"):
        gradients(weights, TopK(), x, target, scale=1.0, centred=True, frozen=["W_skip"])


def test_a_norm_of_mostly_frozen_gradients():
    """What is left is summed, not what is frozen taken away: that would lose all figures."""
    weights, x, target = make(TopK())
    found, result = gradients(
        weights, TopK(), x, 1e8 * target, scale=1.0, centred=True, frozen=["W_dec", "b_dec"]
    )
    total = sum(float(g.double().square().sum()) for g in found.values())
    assert set(found) == {"W_enc", "b_enc"} and result.grad_norm == pytest.approx(total**0.5, rel=1e-5)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_moves_nothing(bad, clip):
    weights, x, target = make(TopK())
    before = {n: w.clone() for n, w in vars(weights).items() if w is not None}
    adam = Adam(weights)
    target[3, 4] = bad
    result = step(weights, TopK(), x, target, adam, lr=0.1, scale=1.0, centred=True, clip=clip)
    assert not result.loss < float("inf") and not result.grad_norm < float("inf")
    assert all(torch.equal(getattr(weights, n), w) for n, w in before.items())
    assert all(not m.any() for m in (*adam.first.values(), *adam.second.values()))


def test_what_is_logged():
    weights, x, target = make(Relu())
    result = gradients(weights, Relu(), x, target, scale=1 / ROWS, centred=True)[1]
    assert result.l0 == pytest.approx(int((result.codes.values > 0).sum()) / ROWS)
    assert result.loss == pytest.approx(result.reconstruction + result.penalty) and result.penalty > 0
    assert result.reconstruction == pytest.approx(float(result.row_losses.sum()) / ROWS)


@pytest.mark.parametrize("aux", [False, True])
def test_without_the_product(aux, monkeypatch):
    """Many latents: the largest are found another way (kernels/topk_product), and are the same."""
    g = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(700, D, generator=g), dim=1)
    weights = SimpleNamespace(
        W_enc=W.clone(), b_enc=0.1 * torch.randn(700, generator=g), W_dec=W,
        b_dec=torch.randn(D, generator=g), threshold=None, W_skip=None,
    )  # fmt: skip
    x, dead = torch.randn(ROWS, D, generator=g), AuxK(torch.arange(0, 700, 10), 20, 0.1)
    ends = []
    for quicker in (lambda *a: True, lambda *a: False):
        monkeypatch.setattr(topk, "quicker", quicker)
        ends.append(
            gradients(
                weights, topk.TopK(9), x, x, scale=1.0, centred=True, aux=dead if aux else None,
                workspace=Workspace(17),
            )
        )  # fmt: skip
    (found, result), (want, expected) = ends
    assert torch.equal(result.codes.indices, expected.codes.indices)
    assert result.loss == pytest.approx(expected.loss, rel=1e-6) and (result.aux > 0) == aux
    for name, tensor in want.items():
        close(found[name], tensor, name)


def test_ties_of_a_batch_do_not_depend_on_its_blocks():
    g = torch.Generator().manual_seed(0)
    weights, _, target = make(TopK())
    weights.W_enc = torch.randint(-1, 2, (M, D), generator=g).float()
    weights.b_enc = torch.zeros(M)
    x = torch.randint(-1, 2, (ROWS, D), generator=g).float()
    ends = []
    for block_rows in (ROWS, 1, 2, 17):
        arch = batchtopk.BatchTopK(K)
        for _ in range(2):  # without a guess, and with one
            result = gradients(
                weights, arch, x, target, scale=1.0, centred=False, workspace=Workspace(block_rows)
            )[1]
            ends.append(result.codes)
    assert len(ends[0].values) > ROWS * K and len(ends[0].values.unique()) < 20
    for codes in ends[1:]:
        assert torch.equal(codes.dense(), ends[0].dense())


def test_steps_repeat_to_the_bit():
    ends = []
    for _ in range(2):
        weights, x, target = make(TopK())
        adam, workspace = Adam(weights), Workspace(block_rows=7)
        for _ in range(3):
            step(weights, TopK(), x, target, adam, lr=0.01, scale=1.0, centred=True, workspace=workspace)
        other = Adam(weights)
        other.load_state_dict(adam.state_dict())
        step(weights, TopK(), x, target, other, lr=0.01, scale=1.0, centred=True)
        ends.append(weights)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(ends[0], name), getattr(ends[1], name))


def test_bfloat16_products():
    weights, x, target = make(TopK())
    exact = gradients(weights, TopK(), x, target, scale=1 / ROWS, centred=True)[1]
    rounded = gradients(weights, TopK(), x, target, scale=1 / ROWS, centred=True, product="bfloat16")[1]
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02) and rounded.loss != exact.loss


def test_bad_arguments():
    weights, x, target = make(TopK())
    for wrong in (x[:, :5], x[:0]):
        with pytest.raises(ArgumentError, match=r"expected contiguous float32 of shape \(B, 24\), with B at"):
            gradients(weights, TopK(), wrong, target[: len(wrong)], scale=1.0, centred=False)
    with pytest.raises(ArgumentError, match="expected one of"):
        gradients(weights, TopK(), x, target, scale=1.0, centred=True, product="float64")
    with pytest.raises(ArgumentError, match="AuxK expects more"):
        aux = AuxK(torch.arange(5), 2)
        gradients(weights, TopK((20, M)), x, target, scale=1.0, centred=True, aux=aux, prefix_weights=[1, 0])
    with pytest.raises(ArgumentError, match="target is"):
        gradients(weights, TopK(), x, target[:, :4], scale=1.0, centred=True)
    with pytest.raises(ArgumentError, match="expected those of"):
        Adam(weights).step(weights, {"W": x}, 0.1, norm=torch.ones((), dtype=torch.float64))
    with pytest.raises(ArgumentError, match="expected"):
        Adam(weights).load_state_dict({"step": 1})
