import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import select_above as module
from mmxai.kernels.select_above import select_above
from tests.kernels.conformance import KernelTests, numbers, values


class TestSelectAbove(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for width in (1, 7, 64, 203):
            for rows in (0, 3, 700):
                yield f"{rows}x{width}", (rows, width)

    def call(self, case, backend, device, poison):
        rows, width = case
        g = torch.Generator().manual_seed(width)
        bias, cuts = torch.randn(2, width, generator=g).to(device)
        outputs = []
        for x in (values((rows, width), torch.float32), torch.randn(rows, width, generator=g)):
            x = x.to(device)
            for cut in (0.0, cuts, float("-inf"), float("inf")):
                for added in (None, bias):
                    got = select_above(x, cut, bias=added, threads=2, backend=backend)
                    outputs += [numbers(got.values), got.indices.cpu().numpy(), got.offsets.cpu().numpy()]
        return outputs

    def test_rows_apart(self, backend):
        x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0)).to(backend[1])
        for view in (x[::2], x[:, 3:50], x.T, x[:, ::2]):
            got = select_above(view, 0.5, backend=backend[0])
            assert torch.equal(got.dense().cpu(), torch.where(view > 0.5, view, 0.0).cpu())


def test_true_of_each_entry():
    x, bias, cut = torch.randn(50, 30), torch.randn(30), torch.rand(30)
    got = select_above(x, cut, bias=bias)
    assert torch.equal(got.dense(), torch.where(x + bias > cut, x + bias, 0.0))


@pytest.mark.parametrize(
    ("x", "cut", "bias"),
    [
        (torch.ones(3), 0.0, None),
        (torch.ones(3, 4).double(), 0.0, None),
        (torch.ones(3, 4), torch.ones(3), None),
        (torch.ones(3, 4), 0.0, torch.ones(5)),
        (torch.ones(3, 4, device="meta"), 0.0, None),
    ],
)
def test_bad_arguments(x, cut, bias):
    with pytest.raises(ArgumentError, match="expected"):
        select_above(x, cut, bias=bias)
