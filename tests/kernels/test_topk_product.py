import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import _native
from mmxai.kernels import topk_product as module
from mmxai.kernels.topk_product import quicker, topk_product
from mmxai.kernels.topk_rows import topk_rows
from tests.kernels.conformance import KernelTests, numbers


def whole(shape, most, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=g).float()


def run(x, w, k, bias, backend, **options):
    name, device = backend
    given = (a.to(device) for a in (x, w))
    values, indices = topk_product(*given, k, bias=bias.to(device), backend=name, **options)
    return values.cpu(), indices.cpu()


class TestTopkProduct(KernelTests):
    """Of whole numbers, whose float32 sums are exact and often equal, though bfloat16 cannot hold them."""

    op = module.OP

    @staticmethod
    def cases():
        for rows, latents, width, k in (
            (5, 512, 1, 1), (7, 600, 33, 32), (130, 1000, 40, 128), (3, 5000, 17, 8), (250, 512, 16, 5),
            (0, 512, 4, 2), (6, 9001, 64, 32),
        ):  # fmt: skip
            for kind in ("apart", "near", "equal"):
                yield f"{rows}x{latents}x{width}-{k}-{kind}", (rows, latents, width, k, kind)

    def call(self, case, backend, device, poison):
        rows, latents, width, k, kind = case
        x, bias = whole((rows, width), 1500, 1), whole((latents,), 3, 2)
        w = whole((latents, width), {"apart": 9, "near": 1, "equal": 0}[kind], 3)
        w += 0 if kind == "apart" else whole((width,), 99, 4)  # all alike, far nearer than bfloat16 tells
        values, indices = run(x, w, k, bias, (backend, device), threads=2)
        return [numbers(values), indices.numpy()]

    @pytest.mark.parametrize("where", ["x", "w", "bias"])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
    def test_what_is_not_finite(self, backend, bad, where):
        given = {"x": whole((20, 30), 9, 0), "w": whole((700, 30), 9, 1), "bias": whole((700,), 9, 2)}
        if where == "w":  # in a few latents: else nothing finite is left among the largest
            given["w"][[3, 200, 650], 5] = bad
        else:
            given[where].view(-1)[::151] = bad
        x, w, bias = given.values()
        want = topk_rows(x @ w.T, 16, bias=bias, backend="reference")
        got = run(x, w, 16, bias, backend)
        torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=1e-4, equal_nan=True)
        clear = want[0].isfinite() & (want[0].abs() < 1e30)
        assert clear.any() and torch.equal(got[1][clear], want[1][clear])

    @pytest.mark.parametrize("rows", [1, 3, 9])
    def test_rows_of_which_every_latent_could_be_chosen(self, backend, rows):
        x = torch.cat([torch.zeros(rows, 40), whole((5, 40), 9, 0)])
        w, bias = whole((3000, 40), 9, 1), torch.ones(3000)
        want = topk_rows(x @ w.T, 20, bias=bias, backend="reference")
        got = run(x, w, 20, bias, backend)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        assert got[1][0].tolist() == list(range(20))

    @pytest.mark.parametrize("kind", ["normal", "heavy", "tiny", "large", "lone"])
    def test_none_is_missed(self, backend, kind):
        g = torch.Generator().manual_seed(0)
        x, w = torch.randn(40, 100, generator=g), torch.randn(2000, 100, generator=g)
        x = {
            "normal": x, "heavy": x**5, "tiny": x * 1e-18, "large": x * 1e9,
            "lone": x * (torch.arange(100) == 7),
        }[kind]  # fmt: skip
        bias = torch.randn(2000, generator=g) * float(x.norm(dim=1).mean())
        true = x.double() @ w.double().T + bias
        values, indices = run(x, w, 32, bias, backend)
        size = float(true.abs().max())
        assert float((true.gather(1, indices.long()) - values).abs().max()) < 1e-6 * size
        rest = true.scatter(1, indices.long(), -torch.inf).amax(1)
        assert bool((values[:, -1] >= rest - 1e-6 * size).all())
        assert bool((values.diff(dim=1) <= 0).all()) and all(len(set(r)) == 32 for r in indices.tolist())

    def test_the_number_of_threads_does_not_show(self, backend):
        x, w, bias = torch.randn(300, 70), torch.randn(600, 70), torch.randn(600)
        ends = [run(x, w, 9, bias, backend, threads=t) for t in (1, 2, 5)]
        for values, indices in ends[1:]:
            assert torch.equal(values, ends[0][0]) and torch.equal(indices, ends[0][1])


def summed_again(x, w, bias, k):
    """How many latents a row the C++ sums again; -1: a weight is not finite."""
    reason = module.OP.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    native = _native.cpu().loaded()
    size = native.topk_product_scratch(len(x), *w.shape, 2)
    out = torch.empty(len(x), k), torch.empty(len(x), k, dtype=torch.int32), torch.empty(size)
    count = native.topk_product(*(a.numpy() for a in (x, w, bias, *out)), 2)
    return count / len(x) if count >= 0 else count


def test_weights_that_are_not_finite_cost_no_product():
    x, w, bias = torch.randn(9, 30), torch.randn(600, 30), torch.zeros(600)
    assert 0 < summed_again(x, w, bias, 5) < 600
    assert summed_again(torch.zeros(9, 30), w, bias, 5) == 600
    w[3, 4] = torch.inf
    assert summed_again(x, w, bias, 5) == -1
    w[3, 4], bias[7] = 0, torch.nan
    assert summed_again(x, w, bias, 5) == -1


def test_few_rows_are_not_worth_it():
    reason = module.OP.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    w = torch.zeros(2000, 16)
    assert quicker(torch.zeros(32, 16), w, 4) and not quicker(torch.zeros(31, 16), w, 4)


def candidates(x, w, k, rounded, loose=1):
    """How many latents a row the bound leaves, in float64; `loose`: the bound is so many times too large."""
    far, size = (torch.linalg.vector_norm(w - rounded(w), dim=1), torch.linalg.vector_norm(w, dim=1))
    off = torch.linalg.vector_norm(x - rounded(x), dim=1, keepdim=True)
    slack = loose * (off * size + torch.linalg.vector_norm(rounded(x), dim=1, keepdim=True) * far)
    sums = rounded(x) @ rounded(w).T
    floor = (sums - slack).topk(k).values[:, -1:]
    return float((sums + slack >= floor).sum(1).double().mean())


def test_why_bfloat16_and_not_int8():
    g = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(8192, 768, generator=g, dtype=torch.float64), dim=1)
    x = torch.randn(40, 768, generator=g, dtype=torch.float64)
    tails = x.clamp(min=-0.17) * torch.randn(40, 768, generator=g, dtype=torch.float64).exp()

    def bfloat16(a):
        return a.bfloat16().double()

    def int8(a):
        by = a.abs().amax(1, keepdim=True) / 127
        return (a / by).round() * by

    for rows in (x, tails - tails.mean(0)):
        least = candidates(rows, w, 32, bfloat16)
        mine = summed_again(rows.float(), w.float(), torch.zeros(len(w)), 32)
        assert least < 2 * 32 and 0.98 * least < mine < 1.1 * least
        assert candidates(rows, w, 32, bfloat16, loose=10) > 4 * 32  # such a bound would be seen above
        assert candidates(rows, w, 32, int8) > 6 * 32
    assert candidates(tails - tails.mean(0), w, 32, int8) > 1000


@pytest.mark.parametrize(
    "wrong",
    [dict(x=torch.ones(3, 5)), dict(w=torch.ones(4)), dict(k=0), dict(k=9), dict(bias=torch.ones(3)),
     dict(w=torch.ones(4, 8).T), dict(x=torch.ones(3, 4).double())],
)  # fmt: skip
def test_bad_arguments(wrong):
    given = dict(x=torch.ones(3, 4), w=torch.ones(8, 4), k=2, bias=torch.ones(8)) | wrong
    with pytest.raises(ArgumentError, match="expected"):
        topk_product(**given)
