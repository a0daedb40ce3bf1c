import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmxai.errors import ArgumentError
from mmxai.kernels import bilinear_counts as module
from mmxai.kernels.bilinear_counts import bilinear_counts
from mmxai.kernels.cell_labels import block_labels
from tests.kernels.conformance import KernelTests, values
from tests.kernels.test_cell_labels import SHAPES, label_maps, places

LABELS = 8


def blocks_of(grid, shape, outside=0, layers=2):
    (_, ys), (_, xs) = (places(n, m, outside) for n, m in zip(grid, shape, strict=True))
    return block_labels(label_maps(layers, shape), ys, xs, grid, whole=[LABELS - 1])


class TestBilinearCounts(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for name in ("uneven", "wide", "fine", "one", "none"):
            for dtype in (torch.float32, torch.bfloat16):
                for units in (1, 7, 70):
                    yield f"{name}-{str(dtype)[6:]}-{units}", (SHAPES[name], dtype, units)

    def call(self, case, backend, device, poison):
        (grid, shape), dtype, units = case
        g = torch.Generator().manual_seed(units)
        cells = grid[0] * grid[1]
        outputs = []
        for outside in (0, 1):
            blocks = blocks_of(grid, shape, outside).to(device)
            plateaus = torch.randint(-1, 2, (cells, units), generator=g) / 3
            kinds = (values((cells, units), dtype), torch.randn(cells, units, generator=g), plateaus)
            for x in (k.to(device, dtype) for k in kinds):
                cut = torch.randn(units, generator=g).to(device)
                cut[::2] = x[0, ::2].float().nan_to_num(0.0)  # ties
                counts = torch.full((units, LABELS), poison, device=device)
                bilinear_counts([x, x.flip(0)], cut, [blocks, blocks], counts, threads=2, backend=backend)
                outputs.append(counts.cpu().numpy() - poison)
        return outputs

    def test_rows_apart(self, backend):
        x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).to(backend[1])
        blocks = blocks_of((4, 5), (27, 33))
        for view in (x[::2], x[:20, 3:50], x[:20, ::2]):
            cut = torch.zeros(view.shape[1])
            got, want = (torch.zeros(view.shape[1], LABELS, dtype=torch.int64) for _ in range(2))
            got = got.to(backend[1])
            bilinear_counts(view, cut.to(backend[1]), blocks.to(backend[1]), got, backend=backend[0])
            bilinear_counts(view.cpu().contiguous(), cut, blocks, want, backend="reference")
            assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("name", ["exact", "uneven", "wide", "fine", "one"])
def test_counts_are_those_of_torchs_upsampling(name):
    """Brute force in float64, on values of few bits: no sum rounds where weights have few too."""
    grid, shape = SHAPES[name]
    units = 20
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-64, 64, (grid[0] * grid[1], units), generator=g) / 64
    cut = torch.randn(units, generator=g) / 2
    counts = torch.zeros(units, LABELS, dtype=torch.int64)
    bilinear_counts(x, cut, blocks_of(grid, shape), counts)
    planes = x.T.reshape(1, units, *grid).double()
    mask = F.interpolate(planes, size=shape, mode="bilinear")[0] > cut[:, None, None]
    maps = torch.from_numpy(label_maps(2, shape))
    for label in range(LABELS - 1):
        assert torch.equal(counts[:, label], (mask & (maps == label).any(0)).sum((1, 2)))
    assert torch.equal(counts[:, LABELS - 1], mask.sum((1, 2)))


def test_a_plateau_at_the_threshold_is_not_above_it():
    """Where (1 - w) a + w a would round to more than a."""
    blocks, value = blocks_of((4, 5), (27, 33)), torch.tensor(1 / 3)
    x = value.expand(20, 1).contiguous()
    counts = torch.zeros(1, LABELS, dtype=torch.int64)
    bilinear_counts(x, value[None], blocks, counts)
    assert not counts.any()
    bilinear_counts(x, torch.nextafter(value, torch.tensor(0.0))[None], blocks, counts)
    assert counts[0, -1] == 27 * 33


def test_pixels_outside_the_grid_are_not_counted():
    counts = torch.zeros(1, LABELS, dtype=torch.int64)
    bilinear_counts(torch.ones(20, 1), torch.zeros(1), blocks_of((4, 5), (27, 33), outside=2), counts)
    assert counts[0, -1] == 23 * 29
    assert np.array_equal(counts[0].numpy(), blocks_of((4, 5), (27, 33), outside=2).totals(LABELS))


GOOD = {
    "x": torch.ones(20, 4),
    "threshold": torch.zeros(4),
    "blocks": blocks_of((4, 5), (27, 33)),
    "counts": torch.zeros(4, 8).long(),
}


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.ones(19, 4)}, {"x": torch.ones(20, 4).half()}, {"x": [torch.ones(20, 4)] * 2},
        {"x": [torch.ones(20, 4), torch.ones(20, 4).bfloat16()], "blocks": [GOOD["blocks"]] * 2},
        {"threshold": torch.zeros(3)}, {"counts": torch.zeros(4, 7).long()}, {"counts": torch.zeros(4, 8)},
    ],
    ids=range(7),
)  # fmt: skip
def test_bad_arguments(changed):
    with pytest.raises(ArgumentError, match=r"expected|got 2 grids and 1"):
        bilinear_counts(**GOOD | changed)


def test_no_pictures():
    counts = torch.zeros(4, 8).long()
    bilinear_counts([], torch.zeros(4), [], counts)
    assert not counts.any()
