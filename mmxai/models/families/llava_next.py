"""LLaVA-NeXT and LLaVA-OneVision: the whole picture small, then crops of it at full size.

Tile 0 of a sample is the whole picture, tiles 1 to n the crops, row by row. In the text the crops' cells
stand together as one large grid, without the cells that show padding alone, and behind each of its rows a
newline, which is no cell (x -1). Where OneVision shrinks that grid, its cells are those of one more tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from mmxai.errors import ModelError
from mmxai.models.adapter import Family
from mmxai.models.families.llava import PROMPT, live, selected, text_tower, tile_rows, vision_tower
from mmxai.models.parts import pair
from mmxai.models.processed import ProcessedImages
from mmxai.models.splice import Extent, Layout, Pictures, Splice, cells, single, soft
from mmxai.types import TOKEN_CODES

QWEN_PROMPT = "<|im_start|>user {image}\n{text}<|im_end|><|im_start|>assistant\n"


class Crops(NamedTuple):
    """Where a picture's crops lie. side: of a tile, pixels. grid: cells along a side. tiles: crops (down,
    across). kept: rows and columns of the large grid that show the picture, `(first, last + 1)` each. shrunk:
    the grid that OneVision makes of them, or None.
    """

    side: int
    grid: int
    tiles: tuple[int, int]
    kept: tuple[tuple[int, int], tuple[int, int]]
    shrunk: tuple[int, int] | None


def crops_of(config: Any, height: int, width: int) -> Crops:
    """For a picture of this size, original pixels."""
    from transformers.image_processing_utils import select_best_resolution

    (side, across), (patch, _) = (
        pair(config.vision_config.image_size),
        pair(config.vision_config.patch_size),
    )
    if side != across:
        raise ModelError(f"vision tower: got pictures of {side} x {across}, expected square ones")
    grid = side // patch
    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    tiles = (best[0] // side, best[1] // side)
    rows, columns = tiles[0] * grid, tiles[1] * grid
    top = left = 0
    if width / height > columns / rows:
        top = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        left = (columns - int(round(width * (rows / height), 7))) // 2
    kept = (top, rows - top), (left, columns - left)
    return Crops(side, grid, tiles, kept, _shrunk(config, kept, grid))


def _shrunk(config: Any, kept: tuple[tuple[int, int], tuple[int, int]], grid: int) -> tuple[int, int] | None:
    """OneVision: at most so many tiles' worth of cells (`anyres_max_9`), with a tenth of grace."""
    aspect = getattr(config, "vision_aspect_ratio", None)
    if aspect is None:
        return None
    height, width = (stop - start for start, stop in kept)
    ratio = math.sqrt(height * width / (int(aspect.removeprefix("anyres_max_")) * grid**2))
    return (int(height // ratio), int(width // ratio)) if ratio > 1.1 else None


def layout(config: Any, extent: Extent) -> Layout:
    """extent: height and width of the original picture."""
    crops = crops_of(config, *extent)
    prefix = vision_tower(config).prefix
    count = 1 + crops.tiles[0] * crops.tiles[1]
    rows = [tile_rows(config, prefix, t, (crops.grid, crops.grid)) for t in range(count)]
    read = [selected(config, one) for one in rows]
    return Layout(
        vision=torch.cat(rows),
        pooled=torch.cat([single("", t) for t in range(count)]),
        projector=torch.cat(read),
        text=torch.cat([read[0], _packed(crops, count)]),
        tiles=count + (crops.shrunk is not None),
    )


def _packed(crops: Crops, count: int) -> torch.Tensor:
    """The crops' cells as they stand in the text: `[n, 4]`, see `Layout`."""
    if crops.shrunk is not None:
        height, width = crops.shrunk
        inner = soft(cells("patch", count, height, width)).view(height, width, 4)
    else:
        (top, bottom), (left, right) = crops.kept
        y, x = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
        tile = 1 + y // crops.grid * crops.tiles[1] + x // crops.grid
        kind = torch.full_like(tile, TOKEN_CODES["image"])
        inner = torch.stack([kind, tile, y % crops.grid, x % crops.grid], -1).to(torch.int32)
    newline = inner[:, -1:].clone()
    newline[..., 3] = -1
    return torch.cat([inner, newline], 1).flatten(0, 1)


def extents(config: Any, tensors: Mapping[str, torch.Tensor]) -> list[Extent]:
    if "image_sizes" not in tensors:
        raise ModelError(
            f"pictures: got {sorted(tensors)}, expected image_sizes (height, width of each original)"
        )
    return [(int(h), int(w)) for h, w in tensors["image_sizes"].tolist()]


def example(config: Any) -> dict[str, torch.Tensor]:
    """A picture that fills the first resolution half, so that some cells are left out."""
    height, width = config.image_grid_pinpoints[0]
    size = (height, max(width // 2, 1))
    crops = crops_of(config, *size)
    count = 1 + crops.tiles[0] * crops.tiles[1]
    pixels = torch.zeros(count, config.vision_config.num_channels, crops.side, crops.side)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(size)}


def longest(config: Any) -> Layout:
    return max(
        (layout(config, tuple(p)) for p in config.image_grid_pinpoints), key=lambda one: len(one.vision)
    )


def _pictures(processor: Any, config: Any) -> Pictures:
    kinds = ("LlavaNextImageProcessorPil", "LlavaOnevisionImageProcessorPil")
    side = pair(config.vision_config.image_size)[0]

    def tiles(processor: Any, width: int, height: int) -> list[dict[str, Any]]:
        return tiles_of(config, width, height)

    made = ProcessedImages(processor, tiles, kinds=kinds, names=("pixel_values", "image_sizes"))
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    sides = {size.height or size.shortest_edge, size.width or size.shortest_edge}
    sides |= {crop.height, crop.width} if crop else set()
    if sides != {side} or not processor.do_resize:
        raise ModelError(
            f"image processor: got tiles of {sorted(sides)} pixels, expected {side}, as in the model's config"
        )
    if processor.image_grid_pinpoints != config.image_grid_pinpoints:
        raise ModelError(
            f"image processor: got resolutions {processor.image_grid_pinpoints}, expected those of the "
            f"model's config: {config.image_grid_pinpoints}"
        )
    return made


def tiles_of(config: Any, width: int, height: int) -> list[dict[str, Any]]:
    """The record's tiles of a picture: affine maps from its pixels to each tile's cells."""
    from transformers.image_processing_utils import get_patch_output_size
    from transformers.image_utils import ChannelDimension

    crops = crops_of(config, height, width)
    g, patch, (down, across) = crops.grid, crops.side // crops.grid, crops.tiles
    target = (down * crops.side, across * crops.side)
    shape_only = np.broadcast_to(np.uint8(0), (3, height, width))
    resized = get_patch_output_size(shape_only, target, input_data_format=ChannelDimension.FIRST)
    sy, sx = resized[0] / height / patch, resized[1] / width / patch  # cells a pixel, of the large grid
    oy, ox = ((t - r) // 2 / patch for t, r in zip(target, resized, strict=True))
    out = [{"affine": [g / width, 0.0, 0.0, 0.0, g / height, 0.0], "grid": [g, g]}]
    for i in range(down):
        for j in range(across):
            out.append({"affine": [sx, 0.0, ox - j * g, 0.0, sy, oy - i * g], "grid": [g, g]})
    if crops.shrunk is not None:
        (top, bottom), (left, right) = crops.kept
        fy, fx = crops.shrunk[0] / (bottom - top), crops.shrunk[1] / (right - left)
        affine = [sx * fx, 0.0, (ox - left) * fx, 0.0, sy * fy, (oy - top) * fy]
        out.append({"affine": affine, "grid": list(crops.shrunk)})
    return out


def family(config: Any) -> Family:
    splice = Splice(
        token=lambda config: config.image_token_id,
        extents=extents,
        layout=layout,
        example=example,
        longest=longest,
        pictures=_pictures,
        prompt=QWEN_PROMPT if config.model_type == "llava_onevision" else PROMPT,
        join={"pixel_values": "pad", "image_sizes": "stack"},
        live=live,
    )
    return Family(config.model_type, (vision_tower(config), text_tower(config)), splice=splice)
