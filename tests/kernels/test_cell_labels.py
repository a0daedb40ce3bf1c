import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import cell_labels as module
from mmxai.kernels.cell_labels import block_labels, block_labels_of_all, cell_labels
from mmxai.kernels.cells import CellLabels
from tests.kernels.conformance import KernelTests

SHAPES = {
    "exact": ((14, 14), (112, 112)),
    "uneven": ((4, 5), (27, 33)),
    "wide": ((2, 1), (40, 101)),
    "fine": ((9, 12), (7, 30)),  # cells without a pixel
    "one": ((1, 1), (3, 9)),
    "none": ((3, 3), (0, 5)),
}


def label_maps(layers, shape, labels=6, seed=0):
    """Label maps with runs of all lengths, int32 `[layers, h, w]`."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(-1, labels, (layers, *shape), dtype=np.int32)
    if shape[0] > 4:
        maps[:, shape[0] // 2 :] = np.repeat(maps[:, shape[0] // 2 :, ::5], 5, axis=2)[..., : shape[1]]
        maps[:, :2] = 3
    return maps


def places(cells, pixels, outside=0):
    """Cell and position of each pixel of one side; `outside` pixels at either end lie outside the grid."""
    g = (np.arange(pixels) - outside + 0.5) * cells / max(1, pixels - 2 * outside)
    seen = (g >= 0) & (g < cells)
    cell = np.where(seen, np.floor(g), -1).astype(np.int32)
    return cell, np.where(seen, np.clip(g - 0.5, 0, cells - 1), -1.0)


class TestCellLabels(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for name, (grid, shape) in SHAPES.items():
            for layers in (0, 1, 3):
                for outside in (0, 1):
                    yield f"{name}-{layers}-{outside}", (grid, shape, layers, outside)

    def call(self, case, backend, device, poison):
        grid, shape, layers, outside = case
        maps = label_maps(layers, shape)
        (rows, ys), (cols, xs) = (places(n, m, outside) for n, m in zip(grid, shape, strict=True))
        outputs = []
        for whole in ((), (9, 2)):
            cells = cell_labels(maps, rows, cols, grid, whole=whole, backend=backend)
            blocks = block_labels(maps, ys, xs, grid, whole=whole, backend=backend)
            outputs += [cells.offsets, cells.columns, cells.counts, blocks.bits, blocks.starts]
            outputs += [blocks.entries.offsets, blocks.entries.columns, blocks.entries.counts]
        return [t.numpy() for t in outputs]


@pytest.mark.parametrize("name", SHAPES)
def test_counts_are_those_of_a_loop_over_pixels(name):
    grid, shape = SHAPES[name]
    maps = label_maps(2, shape)
    (rows, ys), (cols, xs) = (places(n, m, 1) for n, m in zip(grid, shape, strict=True))
    want = np.zeros((grid[0] * grid[1], 8), np.int32)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if rows[y] >= 0 and cols[x] >= 0:
                want[rows[y] * grid[1] + cols[x], [c for c in {*maps[:, y, x], 7} if c >= 0]] += 1
    cells = cell_labels(maps, rows, cols, grid, whole=[7])
    np.testing.assert_array_equal(cells.dense(torch.arange(8)).numpy(), want)
    np.testing.assert_array_equal(cells.totals(8).numpy(), want.sum(0))
    np.testing.assert_array_equal(block_labels(maps, ys, xs, grid, whole=[7]).totals(8).numpy(), want.sum(0))
    assert cells.present().tolist() == np.flatnonzero(want.sum(0)).tolist()


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_pictures_that_lie_alike(pictures):
    maps = np.stack([label_maps(2, (27, 33), seed=seed) for seed in range(3)])[:pictures]
    (rows, ys), (cols, xs) = places(4, 27), places(5, 33)
    every = torch.arange(6)
    cells = cell_labels(maps, rows, cols, (4, 5), threads=2)
    want = [cell_labels(m, rows, cols, (4, 5)).dense(every) for m in maps]
    assert torch.equal(cells.dense(every), torch.cat([torch.empty(0, 6).int(), *want]))
    blocks = block_labels_of_all(maps, ys, xs, (4, 5), threads=2)
    for got, m in zip(blocks, maps, strict=True):
        one = block_labels(m, ys, xs, (4, 5))
        assert torch.equal(got.bits, one.bits) and torch.equal(got.entries.columns, one.entries.columns)
    if pictures != 1:
        with pytest.raises(ArgumentError, match="expected those of one"):
            block_labels(maps, ys, xs, (4, 5))


def test_taken_and_joined():
    maps = torch.from_numpy(label_maps(2, (27, 33)))
    (rows, _), (cols, _) = places(4, 27), places(5, 33)
    cells = cell_labels(maps, rows, cols, (4, 5))
    index = torch.tensor([3, -1, 0, 0, 19])
    taken, every = cells.take(index), torch.arange(6)
    want = torch.cat([cells.dense(every), torch.zeros(1, 6, dtype=torch.int32)])[index]
    assert torch.equal(taken.dense(every), want)
    joined = CellLabels.cat([taken, cells, cells.take(index[:0])])
    assert joined.rows == 25 and torch.equal(joined.dense(every), torch.cat([want, cells.dense(every)]))
    assert torch.equal(
        cells.dense(torch.tensor([5, 40])), torch.stack([cells.dense(every)[:, 5], want.new_zeros(20)], 1)
    )
    for wrong in (torch.tensor([20]), torch.tensor([-2]), torch.tensor([0.5]), torch.zeros(1, 1).long()):
        with pytest.raises(ArgumentError, match="expected"):
            cells.take(wrong)
    with pytest.raises(ArgumentError, match="at least one"):
        CellLabels.cat([])
    with pytest.raises(ArgumentError, match="expected int64 offsets"):
        CellLabels(cells.offsets.int(), cells.columns, cells.counts)
    with pytest.raises(ArgumentError, match="expected"):
        CellLabels(cells.offsets, cells.columns, cells.counts[1:])


MAPS, ROWS, COLS = np.zeros((1, 4, 6), np.int32), np.array([0, 0, 1, 1], np.int32), np.zeros(6, np.int32)


@pytest.mark.parametrize(
    "changed",
    [
        {"maps": MAPS[0]}, {"maps": MAPS.astype(np.int64)}, {"rows": ROWS[1:]}, {"rows": ROWS.astype(int)},
        {"rows": ROWS[::-1].copy()}, {"rows": ROWS + 1}, {"rows": np.array([0, -1, 0, 1], np.int32)},
        {"whole": [-1]}, {"cols": np.zeros(5, np.int32)},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments(changed):
    with pytest.raises(ArgumentError, match="expected"):
        cell_labels(**{"maps": MAPS, "rows": ROWS, "cols": COLS, "grid": (2, 1)} | changed)


@pytest.mark.parametrize(
    "ys", [[0, 0.5, 1, 1.5], [0, 0, -0.5, 1], [1, 0.5, 0, 0], [0, 0, 1, np.nan]], ids=str
)
def test_bad_positions(ys):
    with pytest.raises(ArgumentError, match="expected"):
        block_labels(MAPS, np.array(ys), np.zeros(6), (2, 1))
