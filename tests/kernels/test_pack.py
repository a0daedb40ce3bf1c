import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, BackendError
from mmxai.kernels import pack as module
from mmxai.kernels._args import FLOATS
from mmxai.kernels.pack import pack
from tests.kernels.conformance import KernelTests, numbers, poisoned, values

LAYOUTS = {
    "contiguous": lambda x: x,
    "sliced": lambda x: x[:, :, 3:-2],
    "every other value": lambda x: x[:, :, ::2],
    "tokens first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "map": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
}
KEEPS = {
    "all": lambda b, t: None,
    "some": lambda b, t: torch.from_numpy(np.random.default_rng(1).random((b, t)) < 0.6),
    "one": lambda b, t: torch.arange(b * t).reshape(b, t) == b * t - 1,
    "none": lambda b, t: torch.zeros(b, t, dtype=torch.bool),
}


def back_and_forth():
    """(x, keep): an expanded map whose kept rows go back and forth, though their ends are a run's."""
    x = values((1, 40, 5), torch.float32).transpose(1, 2).contiguous().transpose(1, 2).expand(2, -1, -1)
    keep = torch.zeros(2, 40, dtype=torch.bool)
    keep[0, [0, 5]] = keep[1, 2:32] = True
    return x, keep


class TestPack(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for source in FLOATS:
            for target in FLOATS:
                for layout in LAYOUTS:
                    yield f"{str(source)[6:]}-{str(target)[6:]}-{layout}", (source, target, layout)

    def call(self, case, backend, device, poison):
        source, target, layout = case
        outputs = []
        for shape in ((2, 5, 16), (3, 70, 77)):
            for keep in KEEPS.values():
                x = LAYOUTS[layout](values(shape, source))
                kept = keep(x.shape[0], x.shape[1])
                count = x.shape[0] * x.shape[1] if kept is None else int(kept.sum())
                out = poisoned((count, x.shape[2]), target, poison).to(device)
                kept = None if kept is None else kept.to(device)
                overflow = pack(on_device(x, device), kept, out, threads=2, backend=backend)
                outputs += [numbers(out), np.array(overflow)]
        return outputs

    @pytest.mark.parametrize("source", FLOATS)
    @pytest.mark.parametrize("target", FLOATS)
    @pytest.mark.parametrize("turned", [False, True])
    def test_large_over_threads(self, backend, source, target, turned):
        """All bit patterns of 16-bit types, and enough of float32 for every exponent and rounding."""
        x = values((2, 1000, 131), source, seed=3)
        if turned:
            x = LAYOUTS["map"](x)
        got = poisoned((2000, 131), target, 0).to(backend[1])
        want = poisoned((2000, 131), target, 0)
        counts = [
            pack(on_device(x, backend[1]), None, got, threads=2, backend=backend[0]),
            pack(x, None, want, backend="reference"),
        ]
        assert counts[0] == counts[1]
        np.testing.assert_array_equal(numbers(got), numbers(want))

    @pytest.mark.parametrize("shape", [(0, 4, 8), (4, 0, 8), (4, 4, 0)])
    def test_nothing(self, backend, shape):
        out = torch.empty(shape[0] * shape[1], shape[2], dtype=torch.bfloat16, device=backend[1])
        assert pack(torch.empty(shape, device=backend[1]), None, out, backend=backend[0]) == 0

    def test_rows_of_an_expanded_map(self, backend):
        name, device = backend
        x, keep = back_and_forth()
        out = torch.empty(32, 5, device=device)
        pack(on_device(x, device), keep.to(device), out, backend=name)
        assert numbers(out).tolist() == numbers(x[keep]).tolist()


def on_device(x, device):
    """`x` on the device in the same strides (`.to` makes some of them dense)."""
    if device == "cpu":
        return x
    whole = torch.empty(x.untyped_storage().nbytes() // x.itemsize, dtype=x.dtype)
    whole.untyped_storage().copy_(x.untyped_storage())
    return whole.to(device).as_strided(x.shape, x.stride(), x.storage_offset())


def test_agrees_with_torch():
    """The specification against torch's own conversion, NaN payloads aside."""
    x = values((1, 500, 64), torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        out = torch.empty(500, 64, dtype=dtype)
        overflow = pack(x, None, out, backend="reference")
        want = x[0].to(dtype)
        assert torch.equal(out.isnan(), want.isnan())
        np.testing.assert_array_equal(numbers(out.nan_to_num(1)), numbers(want.nan_to_num(1)))
        assert overflow == int((x[0].isfinite() & want.isinf()).sum()) > 0


def test_gradients_stay_out():
    x = torch.ones(1, 2, 3, requires_grad=True)
    out = torch.empty(2, 3)
    pack(x * 2, None, out)
    assert out.tolist() == [[2, 2, 2], [2, 2, 2]] and not out.requires_grad


@pytest.mark.parametrize(
    ("x", "keep", "out"),
    [
        (torch.ones(2, 3), None, torch.ones(2, 3)),
        (torch.ones(2, 3, 4).double(), None, torch.ones(6, 4)),
        (torch.ones(2, 3, 4), torch.ones(2, 3), torch.ones(6, 4)),
        (torch.ones(2, 3, 4), torch.ones(3, 2, dtype=torch.bool), torch.ones(6, 4)),
        (torch.ones(2, 3, 4), torch.eye(2, 3, dtype=torch.bool), torch.ones(6, 4)),
        (torch.ones(2, 3, 4), None, torch.ones(5, 4)),
        (torch.ones(2, 3, 4), None, torch.ones(6, 4).int()),
        (torch.ones(2, 3, 4), None, torch.ones(4, 6).T),
        (torch.ones(2, 3, 4, device="meta"), None, torch.ones(6, 4)),
        (torch.ones(2, 3, 4, device="meta"), None, torch.ones(6, 4, device="meta")),
    ],
)
def test_bad_arguments(x, keep, out):
    with pytest.raises(ArgumentError, match="expected"):
        pack(x, keep, out)


def test_cuda_by_name_for_data_on_the_cpu():
    with pytest.raises(BackendError, match="for data on cpu there are cpu, numba, reference"):
        pack(torch.ones(1, 1, 1), None, torch.ones(1, 1), backend="cuda")


def test_the_cuda_extension_checks_its_arguments():
    """It is compiled where nvcc is, and loads without a driver; these calls fail before they touch a GPU."""
    cuda = pytest.importorskip("mmxai._cuda", reason="built without nvcc")
    good = {
        "x": 16, "from_dtype": 0, "shape": (2, 3, 4), "strides": (12, 4, 1), "index": 0, "count": 6,
        "out": 16, "to_dtype": 1, "overflow": 16, "stream": 0,
    }  # fmt: skip
    for change, message in [
        ({"count": 5}, "number of rows"),
        ({"count": -1, "index": 16}, "negative"),
        ({"x": 0}, "null"),
        ({"overflow": 0}, "overflow"),
        ({"to_dtype": 3}, "dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            cuda.pack(**(good | change))
    with pytest.raises(TypeError):
        cuda.pack(**(good | {"shape": (2, 3)}))
