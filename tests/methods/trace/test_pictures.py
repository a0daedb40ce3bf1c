"""Corruptions of pictures: what they change, what they leave, and what they refuse."""

import numpy as np
import pytest
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.methods.trace import pictures
from mmxai.shapes import ShapesWorld


@pytest.fixture(scope="module")
def item():
    return ShapesWorld(8, seed=3)[2]


@pytest.fixture(scope="module")
def where(item):
    return item.masks[0]


CORRUPTIONS = {
    "blur": pictures.blur,
    "mean": pictures.mean_fill,
    "noise": pictures.pixel_noise,
    "other": lambda image, where=None: pictures.replaced(image, Image.new("RGB", (5, 9), "red"), where),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_only_the_region_changes(item, where, corrupt):
    before = np.asarray(item.pil).copy()
    made = corrupt(item.pil, where)
    changed = (np.asarray(made) != before).any(-1)
    assert made.size == item.pil.size and made.mode == "RGB"
    assert not changed[~where].any() and changed[where].mean() > 0.5
    np.testing.assert_array_equal(np.asarray(item.pil), before)
    whole = (np.asarray(corrupt(item.pil)) != before).any(-1)
    assert whole.mean() > 0.5


def test_the_mean_is_of_what_lies_outside(item, where):
    made = np.asarray(pictures.mean_fill(item.pil, where))
    pixels = np.asarray(item.pil)
    expected = [round(float(pixels[..., c][~where].mean())) for c in range(3)]
    assert made[where].tolist() == [expected] * int(where.sum())
    assert len(np.unique(np.asarray(pictures.mean_fill(item.pil)).reshape(-1, 3), axis=0)) == 1


def test_blur_is_a_gaussian():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    wide = Image.fromarray(np.kron(point, np.ones((5, 5, 1), np.uint8)))
    made = np.asarray(pictures.blur(wide, radius=4.0)).astype(float)[..., 0]
    y = np.arange(len(made)) - 102
    spread = np.sqrt((made.sum(1) * y**2).sum() / made.sum())
    # Pillow's blur is three boxes; the square itself has a spread of its own.
    assert spread == pytest.approx(np.sqrt(4.0**2 + (5**2 - 1) / 12), rel=0.12)


def test_noise_has_the_size_asked_for():
    grey = np.random.default_rng(1).normal(128, 5, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    made = np.asarray(pictures.pixel_noise(image, sigma=3)).astype(float) - grey
    assert made.std() == pytest.approx(3 * grey.std((0, 1)).mean(), rel=0.02)
    assert abs(made.mean()) < 0.3
    again, other = (np.asarray(pictures.pixel_noise(image, seed=s)) for s in (0, 1))
    np.testing.assert_array_equal(again, np.asarray(pictures.pixel_noise(image)))
    assert (other != again).mean() > 0.9


def test_mean_of_pictures():
    few = [Image.new("RGB", (4, 3), (v, 0, 255)) for v in (0, 100, 101)]
    assert np.asarray(pictures.mean_image(few)).tolist() == [[[67, 0, 255]] * 4] * 3
    with pytest.raises(ArgumentError, match="expected one size"):
        pictures.mean_image([*few, Image.new("RGB", (3, 4))])


def test_another_picture_takes_its_place(item, where):
    twin = ShapesWorld(8, seed=3).twin(2, "colour", 0).changed
    # Of one size: the pixels of the same place. Where the two differ, that is the whole counterfactual.
    differs = (twin.image != item.image).any(-1)
    made = pictures.replaced(item.pil, twin.pil, differs)
    np.testing.assert_array_equal(np.asarray(made), twin.image)
    assert (np.asarray(pictures.replaced(item.pil, twin.pil, where)) != item.image).any()
    small = Image.new("RGB", (2, 2), (1, 2, 3))
    filled = np.asarray(pictures.replaced(item.pil, small, where))
    assert (filled[where] == (1, 2, 3)).all()


def test_boxes_and_masks():
    inside = pictures.region((10, 6), box=(1, 2, 4, 5))
    assert inside.shape == (6, 10) and inside.sum() == 9 and inside[2:5, 1:4].all()
    assert pictures.bounds(inside) == (1, 2, 4, 5)
    assert pictures.region((10, 6), box=(0.4, 0, 1.6, 1)).sum() == 2
    mask = Image.fromarray((inside * 7).astype(np.uint8))
    np.testing.assert_array_equal(pictures.region((10, 6), mask=mask), inside)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(box=(4, 2, 1, 5)), "got 4 2 1 5, expected x0 y0 x1 y1"),
        (dict(box=(0, 0, 11, 5)), "x1 <= 10"),
        (dict(box=(0.6, 0, 0.9, 5)), "holds no pixel's centre"),
        (dict(mask=np.zeros((6, 10))), "0 of them set"),
        (dict(mask=np.ones((10, 6))), r"got \(6, 10\) pixels"),
        (dict(), "expected one of them"),
    ],
)
def test_regions_that_cannot_be(given, said):
    with pytest.raises(ArgumentError, match=said):
        pictures.region((10, 6), **given)


def test_refuses(item):
    for bad in (lambda: pictures.blur(item.pil, radius=0), lambda: pictures.pixel_noise(item.pil, sigma=0)):
        with pytest.raises(ArgumentError, match="above 0"):
            bad()
    with pytest.raises(ArgumentError, match="expected RGB"):
        pictures.blur(item.pil.convert("L"))
    with pytest.raises(ArgumentError, match="expected bool"):
        pictures.blur(item.pil, np.ones((3, 3), bool))
