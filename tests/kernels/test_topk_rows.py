import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import topk_rows as module
from mmxai.kernels._args import FLOATS
from mmxai.kernels.topk_rows import topk_rows
from tests.kernels.conformance import KernelTests, numbers, values


class TestTopkRows(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for dtype in FLOATS:
            for by in ("value", "magnitude"):
                for k in (1, 5, 64, 200):
                    yield f"{str(dtype)[6:]}-{by}-{k}", (dtype, by, k)

    def call(self, case, backend, device, poison):
        dtype, by, k = case
        outputs = []
        for width in (k, k + 3, 203, 1000, 1611):
            x = values((40, width), dtype, seed=width)
            x[1] = 0
            x[1, ::2] = -0.0  # all tie
            x[2] = torch.arange(width).remainder(3)
            x[3] = torch.arange(width)  # every value enters
            x[4] = -x[3]
            got = topk_rows(x.to(device), k, by=by, threads=2, backend=backend)
            outputs += [numbers(got[0]), got[1].cpu().numpy()]
        return outputs

    def test_rows_apart(self, backend):
        x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0)).to(backend[1])
        for view in (x[::2], x[:, 3:50], x.T, x[:, ::2]):
            got = topk_rows(view, 7, backend=backend[0])
            want = topk_rows(view.cpu().contiguous(), 7, backend="reference")
            assert torch.equal(got[0].cpu(), want[0]) and torch.equal(got[1].cpu(), want[1])

    @pytest.mark.parametrize("k", [1, 32, 128, 300])
    def test_bias(self, backend, k):
        """Rows of which few, all or no values reach a group's maximum."""
        for width in (300, 1024, 1500):
            x = values((40, width), torch.float32, seed=width)
            x[::2] = torch.randn(20, width, generator=torch.Generator().manual_seed(k))
            x[2], x[4], x[6] = 0, float("nan"), float("-inf")
            x[8] = torch.arange(width).remainder(3)
            bias = torch.randn(width, generator=torch.Generator().manual_seed(1))
            bias[5:60] = 0
            x, bias = x.to(backend[1]), bias.to(backend[1])
            for by in ("value", "magnitude"):
                got = topk_rows(x, k, by=by, bias=bias, threads=2, backend=backend[0])
                want = topk_rows(x + bias, k, by=by, backend="reference")
                assert torch.equal(got[1], want[1])
                torch.testing.assert_close(got[0], want[0], rtol=0, atol=0, equal_nan=True)

    def test_no_rows(self, backend):
        values, indices = topk_rows(torch.empty(0, 5, device=backend[1]), 2, backend=backend[0])
        assert values.shape == indices.shape == (0, 2)


def test_agrees_with_torch():
    x = torch.randn(50, 300)
    values, indices = topk_rows(x, 20, backend="reference")
    want = x.topk(20)
    assert torch.equal(values, want.values) and torch.equal(indices.long(), want.indices)
    values, indices = topk_rows(x, 20, by="magnitude", backend="reference")
    assert torch.equal(values.abs(), x.abs().topk(20).values)
    np.testing.assert_array_equal(x.gather(1, indices.long()), values)


@pytest.mark.parametrize(
    ("x", "k", "by"),
    [
        (torch.ones(3), 1, "value"),
        (torch.ones(3, 4).double(), 1, "value"),
        (torch.ones(3, 4), 0, "value"),
        (torch.ones(3, 4), 5, "value"),
        (torch.ones(3, 4), 2, "size"),
        (torch.ones(3, 4, device="meta"), 2, "value"),
    ],
)
def test_bad_arguments(x, k, by):
    with pytest.raises(ArgumentError, match="expected"):
        topk_rows(x, k, by=by)


@pytest.mark.parametrize(
    ("x", "bias"),
    [
        (torch.ones(3, 4), torch.ones(3)),
        (torch.ones(3, 4), torch.ones(4).double()),
        (torch.ones(3, 4), torch.ones(8)[::2]),
        (torch.ones(3, 4).bfloat16(), torch.ones(4)),
    ],
)
def test_bad_bias(x, bias):
    with pytest.raises(ArgumentError, match=r"bias is .* expected"):
        topk_rows(x, 2, bias=bias)
