import pytest
import torch
import torch.nn.functional as F

from mmxai.errors import ArgumentError
from mmxai.kernels import mask_counts as module
from mmxai.kernels.cell_labels import cell_labels
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes
from mmxai.kernels.mask_counts import mask_counts
from tests.kernels.conformance import KernelTests, codes, values
from tests.kernels.test_cell_labels import label_maps, places

LABELS = 7


def labelled(rows, seed=0):
    """Cells with random labels, some with none."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 100, (rows, LABELS), generator=g).int()
    counts[torch.rand(rows, LABELS, generator=g) < 0.6] = 0
    held = counts > 0
    offsets = torch.nn.functional.pad(held.sum(1).cumsum(0), (1, 0))
    return CellLabels(offsets, held.nonzero()[:, 1].int(), counts[held])


class TestMaskCounts(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for dtype in (torch.float32, torch.bfloat16, "codes"):
            for rows, units in ((0, 5), (1, 1), (30, 7), (50, 64), (333, 131)):
                yield f"{str(dtype)[-8:]}-{rows}x{units}", (dtype, rows, units)

    def call(self, case, backend, device, poison):
        dtype, rows, units = case
        cells = labelled(rows).to(device)
        g = torch.Generator().manual_seed(units)
        outputs = []
        for cut in (
            torch.randn(units, generator=g).abs(),
            torch.full((units,), float("inf")),
            torch.zeros(units),
        ):
            if dtype == "codes":
                c = codes(rows, units, 0.3) if rows else Codes.from_dense(torch.empty(0, units))
                xs = [Codes(*(t.to(device) for t in (c.values, c.indices, c.offsets)), units)]
            else:
                xs = [
                    values((rows, units), dtype).to(device),
                    torch.randn(rows, units, generator=g).to(device, dtype),
                ]
                cut = cut.clone()
                cut[::3] *= -1
            for x in xs:
                counts = torch.full((units, LABELS + 2), poison, device=device)
                mask_counts(x, cut.to(device), cells, counts, threads=2, backend=backend)
                outputs.append(counts.cpu().numpy() - poison)
        return outputs

    def test_rows_apart(self, backend):
        x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0)).to(backend[1])
        for view in (x[::2], x[:, 3:50], x.T, x[:, ::2]):
            cells, cut = labelled(len(view)), torch.zeros(view.shape[1])
            got, want = (torch.zeros(view.shape[1], LABELS, dtype=torch.int64) for _ in range(2))
            got = got.to(backend[1])
            mask_counts(view, cut.to(backend[1]), cells.to(backend[1]), got, backend=backend[0])
            mask_counts(view.cpu().contiguous(), cut, cells, want, backend="reference")
            assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("shape", [(56, 70), (13, 17)])
def test_counts_are_those_of_upsampled_masks(shape):
    """Brute force: the nearest value of every pixel, pixels of every label one by one."""
    grid, units = (4, 5), 9
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 8, (20, units), generator=g).float()  # many tie with the threshold
    cut = torch.randint(-4, 4, (units,), generator=g).float()
    maps = torch.from_numpy(label_maps(2, shape))
    (rows, _), (cols, _) = (places(n, m) for n, m in zip(grid, shape, strict=True))
    counts = torch.zeros(units, LABELS, dtype=torch.int64)
    mask_counts(x, cut, cell_labels(maps, rows, cols, grid, whole=[6]), counts)
    up = F.interpolate(x.T.reshape(1, units, *grid), size=shape, mode="nearest-exact")[0]
    mask = up > cut[:, None, None]
    for label in range(6):
        assert torch.equal(counts[:, label], (mask & (maps == label).any(0)).sum((1, 2)))
    assert torch.equal(counts[:, 6], mask.sum((1, 2)))


def test_codes_are_rows_with_zeros():
    c, cells = codes(50, 40, 0.2), labelled(50)
    sparse, dense = (torch.zeros(40, LABELS, dtype=torch.int64) for _ in range(2))
    mask_counts(c, torch.zeros(40), cells, sparse)
    mask_counts(c.dense(), torch.zeros(40), cells, dense)
    assert torch.equal(sparse, dense) and sparse.sum() > 0


def test_sums_are_added_to_and_pass_two_to_the_31():
    cells = CellLabels(
        torch.tensor([0, 1, 2]), torch.tensor([0, 0]).int(), torch.tensor([2**31 - 1] * 2).int()
    )
    counts = torch.ones(1, 1, dtype=torch.int64)
    mask_counts(torch.ones(2, 1), torch.zeros(1), cells, counts)
    assert counts.item() == 2**32 - 1


GOOD = {
    "x": torch.ones(3, 4),
    "threshold": torch.zeros(4),
    "cells": labelled(3),
    "counts": torch.zeros(4, 7).long(),
}


def test_labels_that_would_be_followed_out_of_bounds():
    cells = labelled(3)
    low = CellLabels(cells.offsets, cells.columns - 1, cells.counts)
    turned = CellLabels(cells.offsets[[0, 2, 1, 3]], cells.columns, cells.counts)
    for wrong in (low, turned):
        with pytest.raises(ArgumentError, match="expected"):
            mask_counts(**GOOD | {"cells": wrong})


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.ones(3)}, {"x": torch.ones(3, 4).double()}, {"x": torch.ones(2, 4)},
        {"x": torch.ones(3, 5)}, {"x": torch.ones(3, 4, device="meta")}, {"threshold": torch.zeros(3)},
        {"threshold": torch.zeros(4).double()}, {"threshold": torch.zeros(8)[::2]},
        {"counts": torch.zeros(4, 7)}, {"counts": torch.zeros(4, 3).long()},
        {"counts": torch.zeros(7, 4).long().T}, {"counts": torch.zeros(3, 7).long()},
        {"x": codes(3, 4, 0.5), "threshold": -torch.ones(4)},
    ],
    ids=range(13),
)  # fmt: skip
def test_bad_arguments(changed):
    with pytest.raises(ArgumentError, match="expected"):
        mask_counts(**GOOD | changed)
