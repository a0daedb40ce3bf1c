import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes
from tests.kernels.conformance import codes


def test_dense_and_back():
    x = codes(20, 30, 0.2).dense()
    back = Codes.from_dense(x)
    assert torch.equal(back.dense(), x) and (back.rows, back.width, back.fixed_k) == (20, 30, None)
    assert back.density == int((x != 0).sum()) / 600 and back.counts().tolist() == (x != 0).sum(1).tolist()


@pytest.mark.parametrize("fixed", [None, 4])
def test_places(fixed):
    held = codes(20, 30, 0.2, fixed=fixed)
    x = torch.randn(20, 30)
    loop = [
        (row, int(held.indices[i]), float(held.values[i]))
        for row in range(20)
        for i in range(int(held.offsets[row]), int(held.offsets[row + 1]))
    ]
    assert held.row_of().tolist() == [row for row, _, _ in loop]
    assert held.gather(x).tolist() == [float(x[row, m]) for row, m, _ in loop]
    assert all(held.dense()[row, m] == value for row, m, value in loop)
    sums = torch.zeros(30, dtype=torch.float64)
    for _, m, value in loop:
        sums[m] += value
    assert torch.allclose(held.sum_by_latent(held.values).double(), sums, atol=1e-6)
    assert held.fired().tolist() == [sum(m == j and v > 0 for _, m, v in loop) for j in range(30)]


def test_cat_and_select():
    a, b = codes(5, 30, 0.2), codes(3, 30, 0.4, seed=1)
    both = Codes.cat([a, b])
    assert torch.equal(both.dense(), torch.cat([a.dense(), b.dense()])) and both.fixed_k is None
    kept = both.select(both.values > 0)
    assert torch.equal(kept.dense(), both.dense().relu()) and kept.rows == 8
    assert Codes.cat([codes(2, 9, 0, fixed=3)] * 2).fixed_k == 3


@pytest.mark.parametrize("fixed", [None, 3])
@pytest.mark.parametrize("rows", [1, 4, 20, 50])
def test_blocks(rows, fixed):
    held = codes(20, 30, 0.2, fixed=fixed)
    parts = list(held.blocks(rows))
    assert [len(range(20)[at]) for at, _, _ in parts] == [min(rows, 20 - s) for s in range(0, 20, rows)]
    assert torch.equal(torch.cat([part.dense() for _, _, part in parts]), held.dense())
    assert torch.equal(torch.cat([held.values[entries] for _, entries, _ in parts]), held.values)


def test_no_rows():
    none = Codes.fixed(torch.empty(0, 3), torch.empty(0, 3, dtype=torch.int32), 7)
    assert none.rows == 0 and none.dense().shape == (0, 7) and none.density == 0
    assert list(none.blocks(5)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Codes(torch.ones(2).double(), torch.zeros(2).int(), torch.tensor([0, 2]), 5),
        lambda: Codes(torch.ones(2), torch.zeros(3).int(), torch.tensor([0, 2]), 5),
        lambda: Codes(torch.ones(2), torch.zeros(2).int(), torch.tensor([0, 2]), 0),
        lambda: Codes.fixed(torch.ones(2, 3), torch.zeros(2, 4).int(), 5),
        lambda: Codes.cat([]),
        lambda: Codes.cat([codes(2, 5, 0.5), codes(2, 6, 0.5)]),
    ],
)
def test_bad_arguments(wrong):
    with pytest.raises(ArgumentError, match="expected"):
        wrong()
