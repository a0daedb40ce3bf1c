import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import code_gradients as module
from mmxai.kernels.code_gradients import code_gradients
from tests.kernels.conformance import SumTests, codes, poisoned
from tests.kernels.test_decode import KINDS, put


class TestCodeGradients(SumTests):
    op = module.OP
    tolerance = 5e-6

    @staticmethod
    def cases():
        for kind in KINDS:
            for out_width, in_width in ((1, 9), (13, 40), (300, 260)):
                for groups in (1, 3):
                    for project in (False, True):
                        name = f"{kind}-{out_width}-{groups}{'-project' if project else ''}"
                        yield name, (kind, out_width, in_width, groups, project)

    def call(self, case, backend, device, poison, threads=1):
        kind, out_width, in_width, groups, project = case
        held = codes(**KINDS[kind])
        g = torch.Generator().manual_seed(out_width)
        ends = (held.width,) if groups == 1 else (3, held.width // 2, held.width)
        d_pre = torch.randn(len(held.values), generator=g)
        errors = torch.randn(held.rows, groups, out_width, generator=g)
        x = torch.randn(held.rows, in_width, generator=g)
        units = torch.nn.functional.normalize(torch.randn(held.width, out_width, generator=g), dim=1)
        shapes = ((held.width, out_width), (held.width, in_width), (held.width,))
        outputs = [poisoned(shape, torch.float32, poison).to(device) for shape in shapes]
        squares = code_gradients(
            put(held, device), *(a.to(device) for a in (d_pre, errors, x)), *outputs, prefixes=ends,
            project=units.to(device) if project else None, threads=threads, backend=backend,
        )  # fmt: skip
        return [a.cpu().numpy() for a in (*outputs, squares)]


def test_one_latent_at_a_time():
    """A loop over entries in float64."""
    held = codes(30, 12, 0.3)
    d_pre, errors, x = torch.randn(len(held.values)), torch.randn(30, 2, 5), torch.randn(30, 4)
    outputs = torch.empty(12, 5), torch.empty(12, 4), torch.empty(12)
    squares = code_gradients(held, d_pre, errors, x, *outputs, prefixes=(7, 12))
    want = np.zeros((12, 5)), np.zeros((12, 4)), np.zeros(12)
    for i, row in enumerate(held.row_of().tolist()):
        m = int(held.indices[i])
        want[0][m] += float(held.values[i]) * errors[row, int(m >= 7)].numpy()
        want[1][m] += float(d_pre[i]) * x[row].numpy()
        want[2][m] += float(d_pre[i])
    for got, expected in zip(outputs, want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    total = sum((w.reshape(12, -1) ** 2).sum(1) for w in want)
    np.testing.assert_allclose(squares, total, rtol=1e-5)


def test_projected_gradients_are_tangent():
    held = codes(30, 12, 0.3)
    units = torch.nn.functional.normalize(torch.randn(12, 5), dim=1)
    rest = torch.randn(len(held.values)), torch.randn(30, 1, 5), torch.randn(30, 4)
    full, tangent = torch.empty(12, 5), torch.empty(12, 5)
    code_gradients(held, *rest, full, torch.empty(12, 4), torch.empty(12))
    code_gradients(held, *rest, tangent, torch.empty(12, 4), torch.empty(12), project=units)
    # Rounding is left along the unit, in proportion to what was taken away: at most 2.7e-7 in 3,000 draws.
    np.testing.assert_allclose((tangent * units).sum(1) / full.norm(dim=1), 0, atol=5e-7)


@pytest.mark.parametrize("wrong", ["d_pre", "errors", "x", "g_dec", "g_enc", "g_bias", "project"])
def test_bad_arguments(wrong):
    held = codes(30, 12, 0.3)
    given = dict(
        d_pre=torch.ones(len(held.values)), errors=torch.ones(30, 1, 5), x=torch.ones(30, 4),
        g_dec=torch.ones(12, 5), g_enc=torch.ones(12, 4), g_bias=torch.ones(12), project=torch.ones(12, 5),
    )  # fmt: skip
    with pytest.raises(ArgumentError, match=rf"{wrong} is .* expected"):
        code_gradients(held, **(given | {wrong: given[wrong][1:]}))
