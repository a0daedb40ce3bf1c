"""Pictures -> pixel tensors, bit for bit what a transformers image processor makes, with exact geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mmxai.errors import ArgumentError, ModelError, UnreadableSampleError

# Overriding any of these may move pixels, and then the geometry below would be a guess.
_STANDARD = ("preprocess", "_preprocess_image_like_inputs", "_preprocess", "resize", "center_crop", "pad")
_POINTWISE = ("rescale", "normalize")


class Placement(NamedTuple):
    """Where a picture lands: resized to `resized`, its corner at `offset` of an input of size `out`; all
    (y, x).
    """

    resized: tuple[int, int]
    offset: tuple[int, int]
    out: tuple[int, int]


@dataclass(frozen=True)
class EncodedImage:
    """`pixels` `[3, H, W]`, or as the model takes them; `size` (w, h) of the original; `tiles`: see
    mmxai.models.geometry; `extra`: what the forward takes beside pixels, by argument name.
    """

    pixels: torch.Tensor
    size: tuple[int, int]
    tiles: list[dict[str, Any]]
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


class ImagePipeline:
    """Resize, centre crop, rescale, normalise and pad as the processor's configuration says.

    `processor`: a PIL-backed transformers image processor of the standard steps (CLIP, ViT, DINOv2, SigLIP,
    DeiT, BLIP and others); load one with `AutoImageProcessor.from_pretrained(path, backend="pil")`.
    `patch`: side of a grid cell in input pixels, or (height, width); merged patches count as one cell.

    Resizing runs in Pillow; everything after it maps each 8-bit value of a channel to one float, so it is a
    table of 256 entries a channel, filled by the processor itself.
    """

    def __init__(self, processor: Any, patch: int | tuple[int, int] = 1):
        from transformers.image_processing_backends import PilBackend

        name = type(processor).__name__
        if not isinstance(processor, PilBackend):
            raise ModelError(
                f"image processor: got {name}, expected a PIL-backed transformers processor; load it with "
                'AutoImageProcessor.from_pretrained(path, backend="pil")'
            )
        changed = [
            m for m in _STANDARD + _POINTWISE if getattr(type(processor), m) is not getattr(PilBackend, m)
        ]
        if changed:
            raise ModelError(
                f"image processor: got {name}, which redefines {', '.join(changed)}, expected the "
                "standard resize, centre crop, rescale, normalise and pad, whose geometry is known"
            )
        self.processor: Any = processor
        self.patch = (patch, patch) if isinstance(patch, int) else tuple(patch)
        if min(self.patch) < 1:
            raise ArgumentError(f"patch: got {patch}, expected a positive number of pixels")
        self._table = self._tabulate()

    @classmethod
    def make(
        cls,
        size: int | tuple[int, int],
        *,
        patch: int | tuple[int, int] = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop: bool = False,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> ImagePipeline:
        """For networks without a processor: pixels in [0, 1], then (x - mean) / std where given.

        `size` (pixels, or (height, width)): resized to exactly that, or with `crop` the shortest edge is
        resized to it and the middle cut out.
        """
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        height, width = (size, size) if isinstance(size, int) else size
        if crop and height != width:
            raise ArgumentError(f"size: got {size} with crop=True, expected a square")
        exact = {"height": height, "width": width}
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": height} if crop else exact,
            do_center_crop=crop,
            crop_size=exact,
            resample=resample,
            do_normalize=mean is not None,
            image_mean=None if mean is None else list(mean),
            image_std=None if mean is None else list(std if std is not None else (1.0,) * len(mean)),
        )
        return cls(processor, patch)

    @classmethod
    def like(cls, processor: Any, patch: int | tuple[int, int] = 1) -> ImagePipeline:
        """The standard steps as configured in a processor of another class, which adds others to them."""
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        config = {k: v for k, v in processor.to_dict().items() if not k.endswith("_type")}
        return cls(CLIPImageProcessorPil(**config | {"do_pad": False}), patch)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON: everything that decides the pixels."""
        config = {k: v for k, v in self.processor.to_dict().items() if v is not None}
        return {"processor": json_of(config), "patch": list(self.patch)}

    def place(self, width: int, height: int) -> Placement:
        """Where a picture of that size lands in the model's input."""
        p = self.processor
        size = self._resized(width, height) if p.do_resize else (height, width)
        top, left, out = 0, 0, size
        if p.do_center_crop:
            out = (int(p.crop_size.height), int(p.crop_size.width))
            top, left = (-((n - c) // 2) for n, c in zip(size, out, strict=True))  # positive: black before it
        if p.do_pad and p.pad_size is not None:  # to the right and below; no pad_size: to the largest of one
            target = (int(p.pad_size.height), int(p.pad_size.width))
            if target[0] < out[0] or target[1] < out[1]:
                raise ModelError(
                    f"pad_size: got {target}, expected at least the picture's {out} (height, width)"
                )
            out = target
        return Placement(size, (top, left), out)

    def tile(self, width: int, height: int) -> dict[str, Any]:
        """The map from original pixels to grid cells, exact."""
        (rh, rw), (top, left), (oh, ow) = self.place(width, height)
        ph, pw = self.patch
        affine = [rw / width / pw, 0.0, left / pw, 0.0, rh / height / ph, top / ph]
        return {"affine": affine, "grid": [oh // ph, ow // pw]}

    def __call__(self, image: Image.Image, *, key: str = "picture") -> EncodedImage:
        p = self.processor
        if image.mode != "RGB":
            raise ArgumentError(f"picture: got mode {image.mode}, expected RGB; use Sample(...).image")
        width, height = image.size
        place = self.place(width, height)
        if min(place.resized) < 1:
            raise UnreadableSampleError(
                f"{key}: got a picture of {width} x {height} pixels, expected one that the processor "
                f"does not shrink to {place.resized} (height, width)",
                key=key,
            )
        if p.do_resize:
            rh, rw = place.resized
            image = image.resize((rw, rh), resample=p.resample)
        pixels = np.asarray(image)
        if p.do_center_crop:
            pixels = _window(pixels, place.offset, (int(p.crop_size.height), int(p.crop_size.width)))
        oh, ow = place.out
        h, w = pixels.shape[:2]
        out = np.zeros((3, oh, ow), dtype=self._table.dtype)  # padding comes after normalising: zeros
        for c in range(3):
            out[c, :h, :w] = self._table[c][pixels[..., c]]
        return EncodedImage(torch.from_numpy(out), (width, height), [self.tile(width, height)])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
        from transformers.image_utils import ChannelDimension, get_image_size_for_max_height_width

        size = self.processor.size
        if size.shortest_edge and size.longest_edge:
            out = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
        elif size.shortest_edge:
            shape_only = np.broadcast_to(np.uint8(0), (3, height, width))
            out = get_resize_output_image_size(
                shape_only,
                size=size.shortest_edge,
                default_to_square=False,
                input_data_format=ChannelDimension.FIRST,
            )
        elif size.max_height and size.max_width:
            out = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
        elif size.height and size.width:
            out = (size.height, size.width)
        else:
            raise ModelError(f"image processor: got size {size}, expected height and width, or shortest_edge")
        return int(out[0]), int(out[1])

    def _tabulate(self) -> np.ndarray:
        p = self.processor
        table = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
        if p.do_rescale:
            table = p.rescale(table, p.rescale_factor)
        if p.do_normalize:
            try:
                table = p.normalize(table, p.image_mean, p.image_std)
            except ValueError as error:
                raise ModelError(
                    f"image processor: {error}; expected one mean and std a channel of RGB"
                ) from error
        return np.ascontiguousarray(table[:, 0])


def _window(pixels: np.ndarray, offset: tuple[int, int], out: tuple[int, int]) -> np.ndarray:
    """`[H, W, 3]` moved by `offset` into a black picture of size `out`."""
    (top, left), (oh, ow) = offset, out
    inside = pixels[max(0, -top) : oh - top, max(0, -left) : ow - left]
    if inside.shape[:2] == (oh, ow):
        return inside
    canvas = np.zeros((oh, ow, 3), dtype=pixels.dtype)
    y, x = max(0, top), max(0, left)
    canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return canvas


def json_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): json_of(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [json_of(v) for v in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return int(value)  # Pillow's resampling filters are enumerations
