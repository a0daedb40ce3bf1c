"""Pictures inside a page: data URIs, and the model's grid mapped back onto original pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

LARGEST = 192
_LOSSLESS_PIXELS = 96 * 96
_VEIL = (10, 12, 28)
_DIMMEST = 150  # of 255: the rest of the picture stays recognisable


def picture_bytes(image: Image.Image) -> tuple[bytes, str]:
    """A picture as a file, and its suffix: small ones as they are, larger ones at most 192 pixels a side."""
    image = image.convert("RGB")
    if image.width * image.height > _LOSSLESS_PIXELS:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return _encoded(image, "webp", quality=80, method=5), "webp"
    # Of a lossless picture `quality` is the effort: the next step up takes eight times as long for an eighth.
    return _encoded(image, "webp", lossless=True, quality=50, method=4), "webp"


def picture_uri(image: Image.Image) -> str:
    """`picture_bytes` as a data URI."""
    return _uri(*picture_bytes(image))


def heat_uri(heat: np.ndarray) -> str:
    """A veil over a picture from levels `[h, w]` in 0..1: a pixel a cell, clear where the neuron is high."""
    rgba = np.empty((*heat.shape, 4), np.uint8)
    rgba[..., :3] = _VEIL
    rgba[..., 3] = np.rint(_DIMMEST * (1 - np.clip(heat, 0, 1)))
    return _uri(_encoded(Image.fromarray(rgba), "png", optimize=True), "png")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def inverse(affine: Sequence[float]) -> tuple[float, float, float, float, float, float] | None:
    """The map from grid cells to original pixels, as SVG's matrix(a b c d e f); None if there is none.

    `affine` is a sample's tile's: gx = a*x + b*y + c, gy = d*x + e*y + f.
    """
    a, b, c, d, e, f = affine
    area = a * e - b * d
    if abs(area) < 1e-12:
        return None
    return e / area, -d / area, -b / area, a / area, (b * f - c * e) / area, (c * d - a * f) / area


def outline(
    matrix: Sequence[float], y: int, x: int, height: int = 1, width: int = 1
) -> list[tuple[float, float]]:
    """Corners of `height` x `width` cells from (y, x) on, in original pixels, under a matrix of `inverse`."""
    a, b, c, d, e, f = matrix
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return [(a * u + c * v + e, b * u + d * v + f) for u, v in corners]
