"""Overlapping masks as layers."""

import numpy as np

from mmxai.concepts.layers import Patch, once, stacked


def cut(mask):
    """The patch of a mask: as small as may be, or none."""
    if not mask.any():
        return Patch(np.zeros((0, 0), bool))
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    patch = Patch(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], int(y[0]), int(x[0]))
    assert np.array_equal(patch.whole(mask.shape), mask)
    return patch


def test_layers_say_what_masks_say():
    draw = np.random.default_rng(0)
    for masks in range(12):
        pairs = [
            (int(draw.integers(4)), draw.random((9, 7)) < draw.choice([0.05, 0.4])) for _ in range(masks)
        ]
        maps = stacked([(c, cut(m)) for c, m in pairs], (9, 7))
        depth = sum(
            (np.any([m for c, m in pairs if c == k], 0) for k in {c for c, _ in pairs}), np.zeros((9, 7))
        )
        assert maps.dtype == np.int32 and maps.shape == (int(depth.max()), 9, 7)
        for concept in range(4):
            union = np.any([np.zeros((9, 7), bool), *(m for c, m in pairs if c == concept)], 0)
            assert np.array_equal((maps == concept).any(0), union)
            assert (maps == concept).sum() == union.sum(), "at most once a pixel"


def test_once():
    maps = np.array([[[0, 1, -1]], [[0, 2, -1]], [[0, 1, 3]], [[-1, 1, -1]]], np.int32)
    assert once(maps)[:, 0].tolist() == [[0, 1, -1], [-1, 2, -1], [-1, -1, 3]]
    assert maps[1, 0, 0] == 0, "given maps stay"
    assert once(maps[:1]) is not None and len(once(np.full((2, 1, 3), -1, np.int32))) == 0
