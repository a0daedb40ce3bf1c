import math
from dataclasses import fields
from unittest import mock

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import unembed_topk as module
from mmxai.kernels._args import FLOATS
from mmxai.kernels.unembed_topk import UnembedTopk, unembed_topk
from tests.kernels.conformance import SumTests

NAMES = [field.name for field in fields(UnembedTopk)]


def given(rows, vocabulary, width, dtype=torch.float32, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, generator=g).mul(3).to(dtype)
    weight = torch.randn(vocabulary, width, generator=g).div(width**0.5).to(dtype)
    targets = torch.randint(-1, vocabulary, (rows, 3), generator=g)
    return {"states": states, "weight": weight, "targets": targets, **more}


def everything(rows, vocabulary, width, dtype=torch.float32, final=True, seed=0):
    """With all that may be asked for."""
    g = torch.Generator().manual_seed(seed + 1)
    case = given(rows, vocabulary, width, dtype, seed)
    finals = max(1, rows // 3)
    case["bias"] = torch.randn(vocabulary, generator=g)
    case["bias"][::7] = -torch.inf
    case["bias"][vocabulary // 2] = 1
    case["reference"] = torch.randint(finals, (rows,), generator=g)
    case["final"] = torch.randn(finals, width, generator=g).to(dtype) if final else None
    return case | {"scale": 1.7, "softcap": 5.0}


def arrays(out):
    found = (getattr(out, name) for name in NAMES)
    return {n: x.cpu().numpy() for n, x in zip(NAMES, found, strict=True) if x is not None}


def run(case, k, backend, threads=2):
    """What comes of `case`, in memory that held NaN."""
    name, device = backend
    moved = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in case.items()}

    def poisoned(*shape):
        out = module_empty(*shape)
        for x in (getattr(out, n) for n in NAMES):
            if x is not None:
                x.fill_(math.nan if x.is_floating_point() else -77)
        return out

    module_empty = module._empty
    with mock.patch.object(module, "_empty", poisoned):
        return arrays(unembed_topk(**moved, k=k, threads=threads, backend=name))


def check(got, want, atol=1e-5):
    assert got.keys() == want.keys()
    for name, x in want.items():
        if x.dtype == np.float32:
            np.testing.assert_allclose(got[name], x, rtol=2e-6, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], x, err_msg=name)


class TestUnembedTopk(SumTests):
    op = module.OP

    @staticmethod
    def cases():
        for dtype in FLOATS:
            for rows, vocabulary, width, k in (
                (1, 1, 1, 1), (5, 13, 3, 13), (37, 600, 17, 5), (130, 2100, 16, 32), (3, 1024, 64, 256),
                (0, 20, 4, 2),
            ):  # fmt: skip
                for kind in ("plain", "all", "within"):
                    name = f"{str(dtype)[6:]}-{rows}x{vocabulary}x{width}-{k}-{kind}"
                    yield name, (dtype, rows, vocabulary, width, k, kind)

    def call(self, case, backend, device, poison, threads=1):
        """Of whole numbers and eighths, whose sums are exact: ids are then equal, too."""
        dtype, rows, vocabulary, width, k, kind = case
        if kind == "plain":
            made = given(rows, vocabulary, width, dtype)
        else:
            made = everything(rows, vocabulary, width, dtype, final=kind == "all")
            made |= {"scale": 0.5, "softcap": 50.0, "bias": (made["bias"] * 8).round() / 8}
        made["weight"] = made["weight"] * width**0.5
        for name in {"states", "weight", "final"} & made.keys():
            made[name] = None if made[name] is None else made[name].round()
        found = run(made, k, (backend, device), threads)
        for name in {"entropy", "kl"} & found.keys():
            found[name] += 1  # they may be 0, but for what rounding leaves
        # Scores of -inf come from the bias; what nobody asked for is NaN.
        return [np.nan_to_num(x, nan=-3, neginf=-5) if x.dtype.kind == "f" else x for x in found.values()]

    def test_ties_go_to_the_lower_id(self, backend):
        """Of whole numbers, whose sums are exact and often equal."""
        g = torch.Generator().manual_seed(0)
        case = {
            "states": torch.randint(-2, 3, (70, 6), generator=g).float(),
            "weight": torch.randint(-1, 2, (3000, 6), generator=g).float(),
            "targets": torch.randint(0, 3000, (70, 4), generator=g),
        }
        logits = case["states"] @ case["weight"].T
        for k in (1, 7, 300):
            if k > 256 and backend[0] == "triton":
                continue
            got = run(case, k, backend)
            ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
            np.testing.assert_array_equal(got["ids"], ids.numpy())
            np.testing.assert_array_equal(got["values"], logits.gather(1, ids).numpy())
        wanted = logits.gather(1, case["targets"])
        np.testing.assert_array_equal(got["target_logits"], wanted.numpy())
        larger = (logits[:, None] > wanted[:, :, None]).sum(2)
        np.testing.assert_array_equal(got["target_ranks"], larger.numpy())

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite(self, backend, bad):
        case = given(20, 1500, 30, reference=torch.arange(20) // 2 * 2)
        case["states"][4, 3] = bad
        case["weight"] = case["weight"].abs()  # the sum with an infinity is that infinity
        check(run(case, 9, backend), run(case, 9, ("reference", "cpu")))
        case = given(20, 1500, 30, bias=torch.zeros(1500), reference=torch.arange(20)[:, None].flip(0)[:, 0])
        case["bias"][[3, 1200]] = bad
        check(run(case, 9, backend), run(case, 9, ("reference", "cpu")))

    def test_tokens_that_have_no_chance(self, backend):
        case = given(
            5, 300, 8, bias=torch.full((300,), -torch.inf), reference=torch.zeros(5, dtype=torch.int64)
        )
        case["bias"][7] = 0
        got = run(case, 2, backend)
        assert got["ids"].tolist() == [[7, 0]] * 5
        np.testing.assert_allclose(got["entropy"], 0, atol=1e-6)
        np.testing.assert_allclose(got["kl"], 0, atol=1e-6)
        np.testing.assert_allclose(got["logsumexp"], got["values"][:, 0], rtol=1e-6)

    @pytest.mark.parametrize("offset", [0.0, 300.0, -3000.0])
    def test_large_logits_lose_nothing_but_their_own_digits(self, backend, offset):
        """An offset that all logits have changes neither chances nor ranks."""
        case = given(12, 700, 16)
        case |= {"bias": torch.zeros(700), "reference": torch.arange(12) % 3}
        want = run(case, 4, ("reference", "cpu"))
        case["bias"] += offset
        got = run(case, 4, backend)
        digits = 3e-7 * abs(offset)
        np.testing.assert_array_equal(got["ids"], want["ids"])
        np.testing.assert_allclose(got["logsumexp"] - offset, want["logsumexp"], atol=1e-5 + 2 * digits)
        np.testing.assert_allclose(got["entropy"], want["entropy"], atol=1e-5 + 4 * digits)
        np.testing.assert_allclose(got["kl"], want["kl"], atol=1e-5 + 4 * digits)

    def test_rising_logits(self, backend):
        """Every token is the largest so far, and by ever more: sums are taken anew all the time."""
        states = torch.tensor([[1.0], [-1.0], [30.0], [0.0]])
        case = {
            "states": states,
            "weight": torch.arange(3000.0)[:, None] / 100,
            "reference": torch.tensor([1, 0, 0, 2]),
        }
        check(run(case, 200, backend), run(case, 200, ("reference", "cpu")), atol=2e-5)

    def test_more_rows_than_a_block_and_other_strides(self, backend):
        case = everything(2500, 150, 8, final=False)
        wide = torch.randn(2500, 24)
        case["states"] = wide[:, ::3]
        case["weight"] = torch.randn(8, 150).T
        case["bias"] = torch.randn(300)[::2]
        check(run(case, 3, backend), run(case, 3, ("reference", "cpu")))

    def test_weights_of_another_type(self, backend):
        case = everything(30, 400, 16)
        case["weight"], case["final"] = case["weight"].half(), case["final"].bfloat16()
        check(run(case, 3, backend), run(case, 3, ("reference", "cpu")))


def test_it_is_what_the_logits_say():
    """Against torch's own softmax, row by row, in float64."""
    case = everything(40, 900, 24)
    got = unembed_topk(**case, k=6)
    logits = 1.7 * case["states"].double() @ case["weight"].double().T + case["bias"]
    logits = 5 * (logits / 5).tanh()
    logs = logits.log_softmax(1)
    final = 5 * ((1.7 * case["final"].double() @ case["weight"].double().T + case["bias"]) / 5).tanh()
    assert got.values.dtype == torch.float32 and got.ids.dtype == torch.int32
    close = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(got.values, logits.topk(6).values, **close)
    torch.testing.assert_close(got.values, logits.gather(1, got.ids.long()), **close)
    torch.testing.assert_close(got.logsumexp, logits.logsumexp(1), **close)
    torch.testing.assert_close(got.entropy, torch.distributions.Categorical(logits=logits).entropy(), **close)
    want = torch.nn.functional.kl_div(
        logs, final.log_softmax(1)[case["reference"]], log_target=True, reduction="none"
    ).sum(1)
    torch.testing.assert_close(got.kl, want, **close)
    known = case["targets"] >= 0
    picked = logits.gather(1, case["targets"].clamp(min=0))
    torch.testing.assert_close(got.target_logits[known], picked[known], **close)
    assert bool(got.target_logits[~known].isnan().all()) and bool((got.target_ranks[~known] == -1).all())
    rank = (logits[:, None] > picked[:, :, None] + 1e-5).sum(2)
    least = (logits[:, None] > picked[:, :, None] - 1e-5).sum(2)
    assert bool(((rank <= got.target_ranks) & (got.target_ranks <= least))[known].all())


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_largest_has_rank_0_and_its_copies_do_not_count(backend):
    g = torch.Generator().manual_seed(0)
    states, weight = torch.randn(50, 100, generator=g), torch.randn(2000, 100, generator=g)
    weight[1000:1064] = weight[3]  # as where a vocabulary was extended by the mean of the rows
    near, wide = states * 0.1 + weight[:50], torch.randn(50, 4000, generator=g)
    for x, w in (
        (states, weight),
        (near, weight),
        (wide, torch.randn(300, 4000, generator=g) + wide.mean(0)),
    ):
        first = unembed_topk(x, w, k=1, backend=backend)
        again = unembed_topk(x, w, targets=first.ids.long(), k=1, backend=backend)
        assert bool((again.target_ranks == 0).all())
        assert torch.equal(again.target_logits, again.values)
    one, other = (
        unembed_topk(states, weight, targets=torch.full((50, 1), t), backend=backend).target_ranks
        for t in (3, 1040)
    )
    assert torch.equal(one, other)


def test_the_tensor_of_all_logits_never_exists():
    """No tensor that is made has more elements than a tile or a copy of a block of states."""
    made = []
    empty = torch.empty

    def watched(*shape, **options):
        out = empty(*shape, **options)
        made.append(out.numel())
        return out

    rows, vocabulary = 3000, 40_000
    case = given(rows, vocabulary, 4, reference=torch.arange(rows) % 500)
    with mock.patch.object(torch, "empty", watched):
        unembed_topk(**case)
    assert max(made) <= 2048 * 4096 < rows * vocabulary / 7


def test_nothing_is_differentiated():
    states = torch.randn(3, 4, requires_grad=True)
    out = unembed_topk(states, torch.randn(9, 4, requires_grad=True), k=2)
    assert not out.values.requires_grad and not out.logsumexp.requires_grad


GOOD = given(4, 9, 5) | {"k": 3, "reference": torch.zeros(4, dtype=torch.int64)}


@pytest.mark.parametrize(
    "changed",
    [
        {"states": torch.zeros(5)}, {"states": torch.zeros(4, 5).double()}, {"states": torch.zeros(4, 6)},
        {"weight": torch.zeros(9)}, {"weight": torch.zeros(0, 5)}, {"weight": torch.zeros(9, 5).int()},
        {"k": 0}, {"k": 10}, {"scale": math.nan}, {"softcap": 0.0}, {"softcap": -1.0}, {"softcap": math.inf},
        {"bias": torch.zeros(8)}, {"bias": torch.zeros(9).int()}, {"targets": torch.zeros(4).long()},
        {"targets": torch.zeros(3, 1).long()}, {"targets": torch.zeros(4, 1)},
        {"targets": torch.full((4, 1), 9)}, {"targets": torch.full((4, 1), -2)},
        {"reference": torch.full((4,), 4)}, {"reference": torch.full((4,), -1)},
        {"reference": torch.zeros(3).long()}, {"reference": torch.zeros(4)}, {"final": torch.zeros(2, 6)},
        {"final": torch.zeros(0, 5)}, {"final": torch.zeros(2, 5), "reference": None},
    ],
    ids=range(26),
)  # fmt: skip
def test_bad_arguments(changed):
    with pytest.raises(ArgumentError, match="expected"):
        unembed_topk(**GOOD | changed)
