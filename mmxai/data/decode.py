"""Bytes of an image file -> an upright RGB picture."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from mmxai.errors import UnreadableSampleError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# What Pillow's decoders raise on damaged files, beside OSError ("image file is truncated", "cannot
# identify").
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_image(data: bytes, *, key: str) -> Image.Image:
    """Decode an image file to upright RGB, first frame.

    Raises `UnreadableSampleError` for damaged and truncated files, and for pictures of more than
    `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except _DECODE_ERRORS as error:
        raise _unreadable(key, error) from error
    return upright_rgb(image, key=key)


def upright_rgb(image: Image.Image, *, key: str) -> Image.Image:
    """Load a picture, apply its EXIF orientation (so every size is the upright picture's), convert to RGB."""
    try:
        limit = Image.MAX_IMAGE_PIXELS  # Pillow itself only warns up to twice the limit
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, limit {limit}")
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))
    except _DECODE_ERRORS as error:
        raise _unreadable(key, error) from error


def _unreadable(key: str, error: Exception) -> UnreadableSampleError:
    return UnreadableSampleError(
        f"{key}: got an image that cannot be decoded ({error or type(error).__name__}), expected a whole "
        "image "
        'file; repair or remove it, or skip such samples with on_error="skip"',
        key=key,
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: transparency over white (as transformers does), deep greys scaled to 8 bit.

    Grey of 16 bits is divided by 257. Modes of no fixed range (`I`, `F`) are read by their values: `F` within
    [0, 1] is scaled, `I` above 255 counts as 16 bits; what fits neither raises ValueError.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not (low >= 0 and high <= 65535):
            raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}, expected 0 to 65535")
        if image.mode == "F" and high <= 1:
            values *= 255
        elif high > 255:
            values /= 257
        return _grey(values)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
