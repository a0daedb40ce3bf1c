"""Corruptions of pictures: blur, mean, noise, another picture; of the whole or of a region of pixels.

Each takes an RGB picture and returns a new one of its size, so that its patches stand where they stood. A
region is a bool array `[H, W]` over the picture's pixels, from a box or a mask; None is the whole picture.
What a corruption leaves matters as much as what it takes: blur keeps an object's colour, the mean fill keeps
where it stood, noise is like nothing that a model has seen (Zhang and Nanda 2024, arXiv:2309.16042, for
texts). A counterfactual picture changes one thing and stays a picture; it is the one to take where there is
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from mmxai.errors import ArgumentError

SIGMA = 3.0
"""Standard deviations of noise, as for texts (Meng et al. 2022)."""


def region(
    size: tuple[int, int], *, box: Sequence[float] | None = None, mask: Image.Image | np.ndarray | None = None
) -> np.ndarray:
    """bool `[H, W]`: the pixels of a picture of `size` (W, H) in a box (x0, y0, x1, y1) or under a mask.

    box: in pixels, x1 and y1 excluded; a pixel is in it with its centre. mask: a picture or array of the same
    size; every pixel above 0 counts. Exactly one of them. Raises ArgumentError.
    """
    width, height = size
    if (box is None) == (mask is None):
        raise ArgumentError("region: got both or neither of a box and a mask, expected one of them")
    if mask is not None:
        given = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask)
        if given.shape != (height, width) or not (given > 0).any():
            raise ArgumentError(
                f"mask: got {given.shape[::-1]} pixels, {int((given > 0).sum())} of them set; expected the "
                f"picture's size {size} (width, height) and some pixel above 0"
            )
        return given > 0
    assert box is not None
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ArgumentError(
            f"box: got {' '.join(f'{v:g}' for v in box)}, expected x0 y0 x1 y1 in pixels of the picture with "
            f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        )
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    if not inside.any():
        raise ArgumentError(f"box: got {x0:g} {y0:g} {x1:g} {y1:g}, which holds no pixel's centre")
    return inside


def bounds(where: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) around a region's pixels."""
    ys, xs = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def blur(image: Image.Image, where: np.ndarray | None = None, radius: float | None = None) -> Image.Image:
    """Gaussian blur of standard deviation `radius` pixels; default: a quarter of the region's longer side."""
    inside = _inside(image, where)
    if radius is None:
        x0, y0, x1, y1 = bounds(inside)
        radius = max(x1 - x0, y1 - y0) / 4
    if not radius > 0:
        raise ArgumentError(f"blur: got radius {radius}, expected pixels above 0")
    return _put(image, np.asarray(image.filter(ImageFilter.GaussianBlur(radius))), inside)


def mean_fill(image: Image.Image, where: np.ndarray | None = None) -> Image.Image:
    """The mean colour: of what lies outside the region, so that nothing of it shines through; of a whole
    picture its own."""
    inside = _inside(image, where)
    pixels = np.asarray(image)
    outside = pixels[~inside] if not inside.all() else pixels.reshape(-1, 3)
    return _put(image, np.broadcast_to(np.rint(outside.mean(0)), pixels.shape), inside)


def pixel_noise(
    image: Image.Image, where: np.ndarray | None = None, sigma: float = SIGMA, seed: int = 0
) -> Image.Image:
    """Gaussian noise of `sigma` standard deviations of each channel over the picture, cut off at 0 and 255.

    The noise is a function of the seed, the size and the picture's deviations alone.
    """
    if not sigma > 0:
        raise ArgumentError(f"noise: got sigma {sigma}, expected standard deviations above 0")
    pixels = np.asarray(image).astype(np.float64)
    drawn = np.random.default_rng(seed).standard_normal(pixels.shape) * sigma * pixels.std((0, 1))
    return _put(image, np.rint(pixels + drawn), _inside(image, where))


def mean_image(images: Sequence[Image.Image]) -> Image.Image:
    """The mean of pictures of one size, pixel by pixel: what a set of pictures has in common."""
    sizes = sorted({i.size for i in images})
    if len(sizes) != 1:
        raise ArgumentError(f"mean_image: got {len(images)} pictures of sizes {sizes}, expected one size")
    total = np.zeros((*sizes[0][::-1], 3))
    for image in images:
        total += np.asarray(_rgb(image))
    return Image.fromarray(np.rint(total / len(images)).astype(np.uint8))


def replaced(image: Image.Image, other: Image.Image, where: np.ndarray | None = None) -> Image.Image:
    """Pixels of another picture: of one of the same size those of the same place; of any other size its
    whole, fitted into the box around the region."""
    inside = _inside(image, where)
    other = _rgb(other)
    if other.size == image.size:
        return _put(image, np.asarray(other), inside)
    x0, y0, x1, y1 = bounds(inside)
    there = np.array(image)
    there[y0:y1, x0:x1] = np.asarray(other.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC))
    return _put(image, there, inside)


def _inside(image: Image.Image, where: np.ndarray | None) -> np.ndarray:
    _rgb(image)
    shape = (image.height, image.width)
    if where is None:
        return np.ones(shape, bool)
    if where.dtype != bool or where.shape != shape or not where.any():
        raise ArgumentError(
            f"region: got {where.dtype} {where.shape}, {int(np.count_nonzero(where))} set; expected bool "
            f"{shape} (height, width) with some pixel set; `region` makes one"
        )
    return where


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode != "RGB":
        raise ArgumentError(f"picture: got mode {image.mode}, expected RGB; use Sample(...).image")
    return image


def _put(image: Image.Image, pixels: np.ndarray, inside: np.ndarray) -> Image.Image:
    """The picture with those pixels where `inside` is set."""
    made = np.where(inside[..., None], np.clip(pixels, 0, 255), np.asarray(image))
    return Image.fromarray(made.astype(np.uint8))
