"""Pixels of a map on a model's grid: crops, padding, grids that are no squares, tiles."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.models.geometry import apply, mask_cells, on_grid, pixel_cells, pixel_positions
from mmxai.models.images import ImagePipeline

EXACT = {"affine": [14 / 640, 0, 0, 0, 7 / 480, 0], "grid": [7, 14]}
CROP = {"affine": [0.04, 0, -1.3, 0, 0.04, -0.2], "grid": [14, 14]}
PADDED = {"affine": [0.02, 0, 1.5, 0, 0.02, 0.0], "grid": [16, 15]}
SECOND_TILE = {"affine": [24 / 640, 0, -12.0, 0, 24 / 640, 0], "grid": [12, 12]}
TILES = [EXACT, CROP, PADDED, SECOND_TILE]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape, step", [((112, 112), 7), ((480, 640), 41), ((33, 57), 1)])
def test_every_pixel_is_in_the_cell_of_its_centre(tile, shape, step):
    (h, w), (rows, columns) = shape, tile["grid"]
    found = pixel_cells(tile, (640, 480), shape)
    assert found[0].dtype == found[1].dtype == np.int32
    for py in range(0, h, step):
        for px in range(0, w, step):
            gx, gy = apply(tile["affine"], np.array([(px + 0.5) * 640 / w, (py + 0.5) * 480 / h]))
            assert found[0][py] == (int(gy) if 0 <= gy < rows else -1)
            assert found[1][px] == (int(gx) if 0 <= gx < columns else -1)


def test_pixels_of_the_picture_share_out_as_areas_do():
    """Where cells are whole pixels wide, counting pixels is `mask_cells`."""
    tile = {"affine": [1 / 16, 0, -2.0, 0, 1 / 16, -1.0], "grid": [8, 10]}
    mask = np.random.default_rng(0).random((160, 240)) < 0.4
    rows, columns = pixel_cells(tile, (240, 160), mask.shape)
    counts = np.zeros((8, 10))
    for py, px in np.argwhere(mask):
        if rows[py] >= 0 and columns[px] >= 0:
            counts[rows[py], columns[px]] += 1
    np.testing.assert_allclose(counts / 256, mask_cells(tile, mask), atol=1e-12)


def test_a_centre_on_an_edge_is_in_the_cell_after_it():
    """A map of 7 pixels over 14 cells: every centre lies on an edge, whatever rounding makes of it."""
    for width in (7, 640, 333, 1023):
        tile = {"affine": [14 / width, 0, 0, 0, 14 / width, 0], "grid": [14, 14]}
        rows, columns = pixel_cells(tile, (width, width), (7, 7))
        assert rows.tolist() == columns.tolist() == [1, 3, 5, 7, 9, 11, 13]


@pytest.mark.parametrize("grid, shape", [((7, 7), (112, 112)), ((5, 9), (60, 60)), ((14, 3), (28, 50))])
def test_positions_are_those_of_interpolate(grid, shape):
    tile = {"affine": [grid[1] / 300, 0, 0, 0, grid[0] / 200, 0], "grid": list(grid)}
    values = torch.randn(1, 1, *grid, dtype=torch.float64)
    wanted = torch.nn.functional.interpolate(values, shape, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    ys, xs = pixel_positions(tile, (300, 200), shape)

    def weights(at, cells):
        low = np.minimum(np.floor(at).astype(int), cells - 1)
        out = np.zeros((len(at), cells))
        out[np.arange(len(at)), low] += 1 - (at - low)
        out[np.arange(len(at)), np.minimum(low + 1, cells - 1)] += at - low
        return out

    found = weights(ys, grid[0]) @ values[0, 0].numpy() @ weights(xs, grid[1]).T
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
def test_positions_are_outside_where_cells_are(tile):
    for at, cell, cells in zip(
        pixel_positions(tile, (640, 480), (90, 70)), pixel_cells(tile, (640, 480), (90, 70)), tile["grid"],
        strict=True,
    ):  # fmt: skip
        assert ((at == -1) == (cell == -1)).all()
        inside = at[cell >= 0]
        assert (inside >= 0).all() and (inside <= cells - 1).all()
        assert (np.abs(inside - cell[cell >= 0]) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (333, 500)])
@pytest.mark.parametrize("crop", [False, True])
def test_a_picture_through_a_pipeline(size, crop):
    """A map painted as the picture itself lands, cell by cell, on what the pipeline makes of the picture."""
    from PIL import Image

    width, height = size
    pipeline = ImagePipeline.make(224, patch=16, crop=crop, resample=Image.Resampling.NEAREST)
    columns = np.arange(width) * 255 // width
    rows = np.arange(height) * 255 // height
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = columns, rows[:, None]
    made = pipeline(Image.fromarray(pixels))
    cells = made.pixels.reshape(3, 14, 16, 14, 16).mean((2, 4)).numpy() * 255
    own_rows, own_columns = pixel_cells(made.tiles[0], size, (height, width))
    for cell in range(14):
        assert abs(rows[own_rows == cell].mean() - cells[1, cell, 0]) < 1.5
        assert abs(columns[own_columns == cell].mean() - cells[0, 0, cell]) < 1.5
    if not crop:
        assert (own_rows >= 0).all() and (own_columns >= 0).all()


def test_a_tile_on_a_map_of_another_stride():
    coarse, fine = on_grid(CROP, (7, 7)), on_grid(CROP, (28, 28))
    for few, many in zip(
        pixel_cells(coarse, (640, 480), (50, 60)), pixel_cells(fine, (640, 480), (50, 60)), strict=True
    ):
        assert ((few < 0) == (many < 0)).all()
        assert (few[few >= 0] == many[few >= 0] // 4).all()


def test_refuses():
    with pytest.raises(ArgumentError, match="rotated"):
        pixel_cells({"affine": [1, 0.1, 0, 0, 1, 0], "grid": [2, 2]}, (4, 4), (4, 4))
    with pytest.raises(ArgumentError, match="positive sizes"):
        pixel_cells(EXACT, (640, 480), (0, 4))
