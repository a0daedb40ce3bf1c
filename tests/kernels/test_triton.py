"""The Triton backends under Triton's interpreter, where there is no GPU for the whole conformance suite."""

from unittest import mock

import numpy as np
import pytest
import torch

from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import unavailable
from mmxai.kernels.capture import NeuronState, capture
from mmxai.kernels.select_above import select_above
from mmxai.kernels.topk_rows import topk_rows
from tests.kernels import (
    test_adam_rows,
    test_bilinear_counts,
    test_code_gradients,
    test_decode,
    test_log_products,
    test_mask_counts,
    test_unembed_topk,
)
from tests.kernels.conformance import numbers, values
from tests.kernels.test_capture import KEEPS, LAYOUTS, check_moments, exact, run
from tests.kernels.test_cell_labels import SHAPES

pytestmark = [
    pytest.mark.skipif(unavailable("triton") is not None, reason="Triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the conformance suite runs Triton on the GPU"),
]


def agree(x, keep, target, **options):
    got, state = run(x, keep, target, "triton", **options)
    expected, want = run(x, keep, target, "reference", **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    check_moments(state, want)


@pytest.mark.parametrize("target", [*FLOATS, torch.int8, None], ids=str)
@pytest.mark.parametrize("source", FLOATS, ids=str)
def test_conversions(source, target):
    """Every kind of value, rows left out, both ends."""
    agree(values((2, 20, 11), source), KEEPS["some"](2, 20), target, calls=1, bottom=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x = LAYOUTS[layout](values((2, 9, 16), torch.bfloat16, seed=1))
    agree(x, KEEPS["some"](*x.shape[:2]), torch.bfloat16, calls=1)


def test_samples():
    x = torch.randn(1, 60, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    x[:, :, 2] = x[:, :, 2].sign()  # ties
    agree(x, None, torch.bfloat16, bottom=True, per_sample=True, k=3)


@pytest.mark.parametrize("k", [1, 16, 128])
def test_length_of_lists(k):
    agree(values((1, 150, 5), torch.bfloat16, seed=4), None, None, k=k, calls=1)


def test_more_than_there_is_room_for():
    """Values that rise in a warm column: every row beats the k-th, and all are found again."""
    x = torch.randn(1, 600, 3, generator=torch.Generator().manual_seed(0))
    x[0, :, 1] = torch.arange(600)
    x[0, :, 2] = torch.arange(600, 0, -1)
    state, want = NeuronState(3, 4, bottom=True), NeuronState(3, 4, bottom=True)
    for start, stop in ((0, 200), (200, 600)):
        capture(x[:, start:stop], None, None, state, start, backend="triton")
        capture(x[:, start:stop], None, None, want, start, backend="reference")
    for a, b in zip(exact(state), exact(want), strict=True):
        np.testing.assert_array_equal(a, b)
    check_moments(state, want)


@pytest.mark.parametrize("kind", ["offset", "drift", "outlier first", "steps", "tiny"])
def test_hard_moments(kind):
    x = torch.randn(1400, 4, generator=torch.Generator().manual_seed(0))
    place = torch.arange(1400)[:, None]
    x = {
        "offset": lambda: x * 1e-2 + 1e4,
        "drift": lambda: x + torch.linspace(-1e3, 1e3, 1400)[:, None],
        "outlier first": lambda: torch.where(place == 0, 1e6, x),
        "steps": lambda: 1e5 * (place // 500) + 1e-2 * x,
        "tiny": lambda: x * 1e-30,
    }[kind]()
    state, want = NeuronState(4, 1), NeuronState(4, 1)
    for start in (0, 700):
        capture(x[None, start : start + 700], None, None, state, start, backend="triton")
        capture(x[None, start : start + 700], None, None, want, start, backend="reference")
    check_moments(state, want)


@pytest.mark.parametrize("source", FLOATS, ids=str)
@pytest.mark.parametrize("by", ["value", "magnitude"])
def test_topk_rows(source, by):
    for shape, k in (((2, 70), 5), ((1, 1100), 33), ((1, 3), 3), ((2, 9), 1)):
        x = values(shape, source, seed=2)
        x[:, ::3] = x[:, :1].clone()  # ties
        got, want = (topk_rows(x, k, by=by, backend=backend) for backend in ("triton", "reference"))
        np.testing.assert_array_equal(numbers(got[0]), numbers(want[0]))
        assert torch.equal(got[1], want[1])


def test_topk_rows_with_a_bias():
    x, bias = torch.randn(2, 1100), torch.randn(1100)
    got, want = (topk_rows(x, 9, bias=bias, backend=backend) for backend in ("triton", "reference"))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("rows", [(37, 203), (3, 2000), (1, 1)], ids=str)
def test_select_above(rows):
    g = torch.Generator().manual_seed(0)
    x, bias, cuts = torch.randn(rows, generator=g), *torch.randn(2, rows[1], generator=g)
    x[0, ::7] = float("nan")
    for cut in (0.0, cuts, float("-inf"), float("inf")):
        for added in (None, bias):
            got, want = (select_above(x, cut, bias=added, backend=b) for b in ("triton", "reference"))
            assert all(
                torch.equal(getattr(got, n), getattr(want, n)) for n in ("values", "indices", "offsets")
            )


DECODE, ERROR = test_decode.TestDecodeCodes, test_decode.TestDecodeError
GRADIENTS, ADAM = test_code_gradients.TestCodeGradients, test_adam_rows.TestAdamRows
CASES = [
    (DECODE, ("sparse", 13)), (DECODE, ("empty", 5)), (DECODE, ("no rows", 5)),
    (ERROR, ("sparse", 13, 3)), (ERROR, ("fixed", 9, 1)), (ERROR, ("no rows", 5, 1)),
    (GRADIENTS, ("sparse", 13, 40, 3, True)), (GRADIENTS, ("no rows", 13, 9, 1, False)),
    (ADAM, (37, 13, True)), (ADAM, (1, 1000, False)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op.__name__[4:]}-{case}" for op, case in CASES])
def test_codes(op, case):
    got, want = (op().call(case, backend, "cpu", 0) for backend in ("triton", "reference"))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=op.tolerance * np.abs(b).max(initial=1e-6))


MASK, BILINEAR = test_mask_counts.TestMaskCounts, test_bilinear_counts.TestBilinearCounts
COUNTS = [
    (MASK, (torch.float32, 30, 7)), (MASK, (torch.bfloat16, 30, 7)), (MASK, ("codes", 30, 7)),
    (MASK, ("codes", 0, 5)), (MASK, (torch.float32, 1, 1)),
    (BILINEAR, (((2, 2), (9, 13)), torch.float32, 7)), (BILINEAR, (((2, 2), (1, 3)), torch.bfloat16, 7)),
    (BILINEAR, (SHAPES["one"], torch.float32, 1)), (BILINEAR, (SHAPES["none"], torch.float32, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "case"), COUNTS, ids=range(len(COUNTS)))
def test_counts(op, case):
    got, want = (op().call(case, backend, "cpu", 0) for backend in ("triton", "reference"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", [(50, 16, 5, 7, 0.97), (30, 37, 2, 100, 0.0), (1, 1, 1, 1, 1.0)], ids=str)
def test_log_products_of_any_range(case):
    op = test_log_products.TestLogProducts()
    got, want = (op.call(case, backend, "cpu", 0)[0] for backend in ("triton", "reference"))
    np.testing.assert_allclose(got, want, rtol=0, atol=op.tolerance * np.abs(want).max())


def test_log_products_of_a_softmax():
    test_log_products.TestLogProducts().test_softmax_and_marginal(("triton", "cpu"), 37)


LENS = test_unembed_topk.TestUnembedTopk()
LENS_CASES = [
    (torch.float32, 1, 1, 1, 1, "all"), (torch.float32, 4, 13, 3, 13, "plain"),
    (torch.bfloat16, 4, 150, 17, 5, "within"), (torch.float16, 3, 40, 5, 4, "all"),
]  # fmt: skip


@pytest.mark.parametrize("case", LENS_CASES, ids=str)
def test_unembed(case):
    got, want = (LENS.call(case, backend, "cpu", 0) for backend in ("triton", "reference"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=LENS.tolerance * np.abs(b).max(initial=1e-6))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_unembed_what_is_not_finite(bad):
    """Of several tiles and steps, each with something."""
    case = test_unembed_topk.given(3, 90, 6, bias=torch.zeros(90), reference=torch.tensor([2, 2, 0]))
    case["bias"][[3, 70]], case["states"][1, 2], case["weight"] = bad, bad, case["weight"].abs()
    with mock.patch.multiple("mmxai.kernels.unembed_topk._triton", TOKENS=64, STEP=32):
        got = test_unembed_topk.run(case, 4, ("triton", "cpu"))
    test_unembed_topk.check(got, test_unembed_topk.run(case, 4, ("reference", "cpu")))
