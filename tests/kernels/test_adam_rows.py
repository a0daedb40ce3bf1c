import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import adam_rows as module
from mmxai.kernels.adam_rows import adam_rows
from tests.kernels.conformance import SumTests


class TestAdamRows(SumTests):
    op = module.OP

    @pytest.mark.parametrize("unit", [False, True])
    def test_a_scale_that_is_a_tensor(self, backend, unit):
        ends = {}
        for kind, scale in (
            ("number", 0.7),
            ("tensor", torch.full((1,), 0.7)),
            ("nan", torch.tensor([torch.nan])),
        ):
            g = torch.Generator().manual_seed(0)
            w, gradient, m, v = (torch.rand(5, 30, generator=g).to(backend[1]) for _ in range(4))
            begun = w.clone(), m.clone(), v.clone()
            by = scale.to(backend[1]) if isinstance(scale, torch.Tensor) else scale
            adam_rows(
                w, gradient, m, v, lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=2, scale=by, unit=unit,
                backend=backend[0],
            )  # fmt: skip
            ends[kind] = w, m, v
        assert all(torch.equal(a, b) for a, b in zip(ends["tensor"], ends["number"], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ends["nan"], begun, strict=True))
        assert not torch.equal(ends["tensor"][0], begun[0])

    @staticmethod
    def cases():
        for rows, width in ((0, 5), (1, 1), (1, 1000), (37, 13), (50, 768)):
            for unit in (False, True):
                yield f"{rows}x{width}{'-unit' if unit else ''}", (rows, width, unit)

    def call(self, case, backend, device, poison, threads=1):
        rows, width, unit = case
        g = torch.Generator().manual_seed(width)
        w = torch.randn(rows, width, generator=g).to(device)
        w[rows // 2 :][:1] = 0
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        for step in (1, 2, 3):
            gradient = torch.randn(rows, width, generator=g).to(device)
            gradient[rows // 2 :][:1] = 0
            adam_rows(
                w, gradient, first, second, lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=step, scale=0.7,
                decay=0.01, unit=unit, threads=threads, backend=backend,
            )  # fmt: skip
        return [x.cpu().numpy() for x in (w, first, second)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_torch(decay):
    w = torch.randn(20, 30)
    theirs = w.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, 6):
        theirs.grad = torch.randn(20, 30)
        optimizer.step()
        adam_rows(
            w,
            2 * theirs.grad,
            first,
            second,
            lr=0.01,
            betas=(0.8, 0.95),
            eps=1e-6,
            step=step,
            scale=0.5,
            decay=decay,
        )
    torch.testing.assert_close(w, theirs.detach(), rtol=0, atol=1e-6)


def test_unit_rows():
    w, g = torch.randn(20, 30), torch.randn(20, 30)
    w[3] = g[3] = 0
    moments = torch.zeros(2, 20, 30)
    adam_rows(w, g, *moments, lr=0.01, betas=(0.9, 0.999), eps=1e-8, step=1, unit=True)
    torch.testing.assert_close(w.norm(dim=1), (torch.arange(20) != 3).float())


@pytest.mark.parametrize(
    "wrong",
    [
        dict(g=torch.ones(2, 4)),
        dict(m=torch.ones(3, 2).T),
        dict(w=torch.ones(3)),
        dict(step=0),
        dict(scale=torch.ones(2)),
    ],
)
def test_bad_arguments(wrong):
    given = dict(zip("wgmv", torch.ones(4, 2, 3), strict=True))
    with pytest.raises(ArgumentError, match="expected"):
        adam_rows(**(given | dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=1) | wrong))
