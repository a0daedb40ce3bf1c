"""Pictures through transformers' own image processor, where its steps are more than a resize and a crop.

The processor makes the pixels; where they come from in the original picture is the family's own knowledge, as
a function of the processor and the picture's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from mmxai.errors import ArgumentError, ModelError, UnreadableSampleError
from mmxai.models.images import EncodedImage, json_of

Tiles = Callable[[Any, int, int], list[dict[str, Any]]]


class ProcessedImages:
    """processor: PIL-backed. tiles: (processor, width, height) -> the record's tiles. kinds: class names of
    processors of which `tiles` knows the geometry. names: what it returns; of pictures one each, the
    first dimension of those in `whole` stays (patches of one picture).
    """

    def __init__(
        self,
        processor: Any,
        tiles: Tiles,
        *,
        kinds: Sequence[str],
        names: Sequence[str] = ("pixel_values",),
        whole: Sequence[str] = (),
    ):
        from transformers.image_processing_backends import PilBackend

        name = type(processor).__name__
        if not isinstance(processor, PilBackend) or name not in kinds:
            raise ModelError(
                f"image processor: got {name}, expected {' or '.join(kinds)}, whose geometry is known; load "
                'it with AutoImageProcessor.from_pretrained(path, backend="pil")'
            )
        self.processor: Any = processor
        self.tiles, self.names, self.whole = tiles, tuple(names), frozenset(whole)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON: everything that decides the pixels."""
        config = {k: v for k, v in self.processor.to_dict().items() if v is not None}
        return {"processor": json_of(config)}

    def __call__(self, image: Image.Image, *, key: str = "picture") -> EncodedImage:
        if image.mode != "RGB":
            raise ArgumentError(f"picture: got mode {image.mode}, expected RGB; use Sample(...).image")
        width, height = image.size
        try:
            made = self.processor(images=[image], return_tensors="pt")
        except ValueError as error:
            raise UnreadableSampleError(
                f"{key}: got a picture of {width} x {height} pixels, expected one that the image processor "
                f"takes: {error}",
                key=key,
            ) from error
        out = {n: torch.as_tensor(made[n]) for n in self.names}
        out = {n: x if n in self.whole else x[0] for n, x in out.items()}
        tiles = self.tiles(self.processor, width, height)
        return EncodedImage(out.pop("pixel_values"), (width, height), tiles, out)
