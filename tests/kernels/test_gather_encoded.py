import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import gather as module
from mmxai.kernels.gather import STORED, EncodedTable, PartTable, gather
from tests.kernels.conformance import KernelTests, numbers, poisoned, values

LAYOUTS = {"one": [50], "several": [0, 20, 1, 0, 29, 0], "many": [1] * 12 + [38]}
KINDS = ("int8", "int8 with columns", "topk 16 bits", "topk 32 bits", "both")


def table(tensor, lengths):
    array = tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return PartTable(
        np.split(array.view(STORED[tensor.dtype]), np.cumsum(lengths)[:-1]), tensor.dtype, tensor.shape[1]
    )


def encoded(kind, lengths, width):
    """A table of random content and, as float64, what its rows mean."""
    rng = np.random.default_rng([len(lengths), width])
    rows, pieces = sum(lengths), {}
    meant = np.zeros((rows, width))
    if "topk" not in kind:
        q = torch.from_numpy(rng.integers(-127, 128, (rows, width), dtype=np.int8))
        scales = torch.from_numpy(np.exp(rng.uniform(-20, 20, (rows, 1))).astype(np.float32))
        scales[:3] = torch.tensor([[0.0], [1e-42], [2.6e36]])
        pieces |= {"quantised": table(q, lengths), "scales": table(scales, lengths)}
        meant = (q.float() * scales).double().numpy()
    if kind != "int8":
        k = min(width, 5)
        kept = values((rows, k), torch.bfloat16, seed=width)
        pieces["kept"] = table(kept, lengths)
        places = np.argsort(rng.random((rows, width)))[:, :k]
        if kind == "topk 16 bits":
            pieces["places"] = table(torch.from_numpy(places.astype(np.uint16)), lengths)
        elif kind == "int8 with columns":
            places = np.broadcast_to(places[:1], places.shape)
            pieces["places"] = places[0].astype(np.int32)
        else:
            pieces["places"] = table(torch.from_numpy(places.astype(np.int32)), lengths)
        np.put_along_axis(meant, places, kept.double().numpy(), 1)
    return EncodedTable(width, **pieces), meant


class TestGatherEncoded(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        rng = np.random.default_rng(0)
        rows = {
            "random": rng.integers(0, 50, 200),
            "runs": np.concatenate([np.arange(10, 30), [5, 5], np.arange(50), [49, 0]]),
            "none": np.empty(0, np.int64),
        }
        for layout in LAYOUTS:
            for name, some in rows.items():
                for kind in KINDS:
                    yield f"{layout}-{name}-{kind}", (layout, some, kind)

    def call(self, case, backend, device, poison):
        layout, rows, kind = case
        outputs = []
        for width in (1, 33, 400):
            held, _ = encoded(kind, LAYOUTS[layout], width)
            for dtype in (torch.bfloat16, torch.float32):
                out = poisoned((len(rows), width), dtype, poison)
                gather(held, rows, out, threads=2, backend=backend)
                outputs.append(numbers(out))
        return outputs

    def test_many_rows_over_threads(self, backend):
        held, _ = encoded("both", [7000, 1, 2000], 400)
        rows = np.random.default_rng(0).integers(0, 9001, 6000)
        got, want = torch.empty(6000, 400), torch.empty(6000, 400)
        gather(held, rows, got, threads=2, backend=backend[0])
        gather(held, rows, want, backend="reference")
        np.testing.assert_array_equal(numbers(got), numbers(want))

    @pytest.mark.parametrize("place", [-1, 8, 1 << 30])
    def test_indices_outside_a_row_are_refused(self, backend, place):
        places = torch.tensor([[0, 7], [1, place]], dtype=torch.int32)
        held = EncodedTable(
            8, kept=table(torch.ones(2, 2, dtype=torch.bfloat16), [2]), places=table(places, [2])
        )
        with pytest.raises(ArgumentError, match="1 indices outside"):
            gather(held, np.arange(2), torch.empty(2, 8), backend=backend[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_means_what_it_says(kind):
    held, meant = encoded(kind, [30, 20], 40)
    rows = np.array([49, 3, 3, 0, 31])
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(5, 40, dtype=dtype)
        gather(held, rows, out, backend="reference")
        want = torch.from_numpy(meant[rows]).float().to(dtype)
        torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)


def test_bad_tables():
    q, scales = torch.zeros(4, 6, dtype=torch.int8), torch.zeros(4, 1)
    kept, places = torch.zeros(4, 2, dtype=torch.bfloat16), np.array([0, 5], np.int32)
    good = {
        "quantised": table(q, [4]),
        "scales": table(scales, [4]),
        "kept": table(kept, [4]),
        "places": places,
    }
    assert len(EncodedTable(6, **good)) == 4
    for change in (
        {"scales": None},
        {"places": None},
        dict.fromkeys(good),
        {"scales": table(scales, [1, 3])},
        {"scales": table(torch.zeros(4, 2), [4])},
        {"quantised": table(scales, [4])},
        {"kept": table(scales, [4])},
        {"places": np.array([0, 6], np.int32)},
        {"places": np.array([0, 5, 1], np.int32)},
        {"places": table(torch.zeros(4, 3, dtype=torch.int32), [4])},
    ):
        with pytest.raises(ArgumentError, match="encoded table"):
            EncodedTable(6, **{**good, **change})
