"""LLaVA 1.5: a CLIP (or other) vision tower, a projector, a language model; any of those with an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mmxai.models.adapter import Family, Tower
from mmxai.models.images import ImagePipeline
from mmxai.models.parts import Dims, pair
from mmxai.models.processed import ProcessedImages
from mmxai.models.registry import family_of
from mmxai.models.splice import Extent, Layout, Pictures, Splice, beside, cells, inside, single, soft

PROMPT = "USER: {image}\n{text} ASSISTANT:"


def vision_tower(config: Any) -> Tower:
    """The vision tower inside, and the projector behind it."""
    tower = next(t for t in family_of(config.vision_config).towers if t.name == "vision")

    def dims(own: Any, whole: Any) -> Dims:
        return replace(tower.dims(own, own), joint=whole.text_config.hidden_size)

    after = {kind: tap for kind, tap in tower.after.items() if kind != "embeds"}
    return inside(
        tower,
        ("model.vision_tower", "vision_tower"),
        "vision_config",
        dims=dims,
        after=after,
        method="get_image_features",
        readout=None,
        beside=beside("/model.multi_modal_projector|/multi_modal_projector"),
    )


def text_tower(config: Any) -> Tower:
    """The language model inside."""
    tower = next(t for t in family_of(config.text_config).towers if t.name == "text")
    return inside(tower, ("model.language_model", "language_model"), "text_config", method="")


def live(config: Any) -> int:
    """Blocks in front of the hidden states that the projector reads."""
    blocks = config.vision_config.num_hidden_layers
    layers = config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else layers
    return max(n if n >= 0 else blocks + 1 + n for n in layers)


def tile_rows(config: Any, prefix: tuple[str, ...], tile: int, grid: tuple[int, int]) -> torch.Tensor:
    """Rows of the vision tower of one tile: `[n, 4]`, see `Layout`."""
    return torch.cat([*(single(kind, tile) for kind in prefix), cells("patch", tile, *grid)])


def selected(config: Any, rows: torch.Tensor) -> torch.Tensor:
    """Those of a tile that the projector gets, as soft tokens."""
    return soft(rows[1:] if config.vision_feature_select_strategy == "default" else rows)


def _prefix(config: Any) -> tuple[str, ...]:
    return vision_tower(config).prefix


def layout(config: Any, extent: Extent) -> Layout:
    """extent: height and width of the pixels."""
    height, width = extent
    ph, pw = pair(config.vision_config.patch_size)
    rows = tile_rows(config, _prefix(config), 0, (height // ph, width // pw))
    read = selected(config, rows)
    return Layout(vision=rows, pooled=single("", 0), projector=read, text=read, tiles=1)


def extents(config: Any, tensors: Mapping[str, torch.Tensor]) -> list[Extent]:
    pixels = tensors["pixel_values"]
    return [(pixels.shape[-2], pixels.shape[-1])] * len(pixels)


def _size(config: Any) -> tuple[int, int]:
    return pair(config.vision_config.image_size)


def example(config: Any) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(config.vision_config.num_channels, *_size(config))}


def _pictures(processor: Any, config: Any) -> Pictures:
    """LLaVA's own processor differs from CLIP's where it pads pictures to squares first."""
    patch = pair(config.vision_config.patch_size)
    if type(processor).__name__ != "LlavaImageProcessorPil":
        return ImagePipeline(processor, patch)
    plain = ImagePipeline.like(processor, patch)
    if not processor.do_pad:
        return plain

    def tiles(processor: Any, width: int, height: int) -> list[dict[str, Any]]:
        side = max(width, height)
        (a, b, c, d, e, f), grid = plain.tile(side, side).values()
        x, y = (side - width) // 2, (side - height) // 2
        return [{"affine": [a, b, c + a * x + b * y, d, e, f + d * x + e * y], "grid": grid}]

    return ProcessedImages(processor, tiles, kinds=("LlavaImageProcessorPil",))


SPLICE = Splice(
    token=lambda config: config.image_token_id,
    extents=extents,
    layout=layout,
    example=example,
    longest=lambda config: layout(config, _size(config)),
    pictures=_pictures,
    prompt=PROMPT,
    live=live,
)


def family(config: Any) -> Family:
    return Family("llava", (vision_tower(config), text_tower(config)), splice=SPLICE)
