"""Outlines hold the cells of masks, and the points where interpolated fields are above a threshold."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.report.dissect.outlines import FINE, cell_paths, smooth_paths
from tests.report.dissect.outlined import area, cells, holds, polygons


def test_cell_paths_by_hand():
    one = np.zeros((3, 2, 3), bool)
    one[0, 0, 0] = one[0, 1, 1] = True  # touch at a corner: two outlines
    one[1] = True
    assert cell_paths(one) == ["M0 0h1v1h-1zM1 1h1v1h-1z", "M0 0h3v2h-3z", ""]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cell_paths_hold_the_cells(share):
    masks = np.random.default_rng(0).random((200, 6, 9)) < share
    for mask, path in zip(masks, cell_paths(masks), strict=True):
        assert np.array_equal(cells(path, 6, 9), mask) and area(path) == mask.sum()
        for points in polygons(path):  # no corner that could be left out
            steps = np.roll(points, -1, 0) - points
            assert ((steps != 0).sum(1) == 1).all() and (steps * np.roll(steps, 1, 0) == 0).all()


@pytest.mark.parametrize("height, width", [(7, 7), (3, 8), (1, 5), (1, 1)])
def test_smooth_paths_hold_what_is_above(height, width):
    """Beside `F.interpolate`, 16 points to a cell's side. A point may be on the wrong side of an outline only
    within its rounding, what a chord misses of a hyperbola, and where two lobes all but touch: a fifth of a
    cell. White noise is far rougher than any map."""
    fields = torch.randn(40, height, width, generator=torch.Generator().manual_seed(1))
    threshold = np.full(40, 0.4)
    fine = torch.nn.functional.interpolate(fields[None], scale_factor=16, mode="bilinear")[0].numpy()
    at = np.stack(np.meshgrid(*((np.arange(16 * n) + 0.5) * FINE / 16 for n in (width, height))), -1)
    wrong = 0
    for values, path in zip(fine, smooth_paths(fields.numpy(), threshold), strict=True):
        inside, above = holds(path, at), values > 0.4
        # A neighbour within a fifth of a cell (three points) on the other side of the threshold excuses.
        padded = np.pad(above, 3, mode="edge")
        near = [padded[a : a + len(above), b : b + above.shape[1]] for a in range(7) for b in range(7)]
        edge = np.any(near, 0) & ~np.all(near, 0)
        assert (inside == above)[~edge].all()
        wrong += (inside != above).sum()
    assert wrong / fine.size < 0.02


def test_smooth_paths_at_the_extremes():
    every, none = smooth_paths(np.ones((2, 2, 3)), np.array([0, 1]))  # 1 is not above 1
    assert area(every) == 6 * FINE**2 and none == ""


def test_refuses():
    with pytest.raises(ArgumentError, match="expected"):
        cell_paths(np.zeros((3, 3), bool))
