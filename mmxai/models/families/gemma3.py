"""Gemma 3 with pictures: a SigLIP vision tower, its patches averaged to fewer soft tokens, Gemma 3.

The soft tokens of a picture read each other in both directions, which `token_type_ids` of 1 say. A picture
has two tiles in the record: 0 is the grid of patches, 1 that of soft tokens. Pan and scan is refused: its
crops would be further pictures.
"""

from __future__ import annotations

from typing import Any

from mmxai.errors import ModelError
from mmxai.models.adapter import Family
from mmxai.models.families import llava
from mmxai.models.geometry import on_grid
from mmxai.models.parts import pair
from mmxai.models.processed import ProcessedImages
from mmxai.models.splice import Extent, Layout, Name, Pictures, Splice, cells, shown, single, soft


def _side(config: Any) -> int:
    """Soft tokens along a side of the picture."""
    return int(config.mm_tokens_per_image**0.5)


def layout(config: Any, extent: Extent) -> Layout:
    """extent: height and width of the pixels."""
    (height, width), (ph, pw) = extent, pair(config.vision_config.patch_size)
    tokens = soft(cells("patch", 1, _side(config), _side(config)))
    patches = cells("patch", 0, height // ph, width // pw)
    return Layout(vision=patches, pooled=single("", 0), projector=tokens, text=tokens, tiles=2)


def _pictures(processor: Any, config: Any) -> Pictures:
    if getattr(processor, "do_pan_and_scan", None):
        raise ModelError(
            "image processor: got do_pan_and_scan=True, expected False: row tables have no place for "
            "its crops; set processor.do_pan_and_scan = False"
        )
    ph, pw = pair(config.vision_config.patch_size)
    side = _side(config)

    def tiles(processor: Any, width: int, height: int) -> list[dict[str, Any]]:
        rh, rw = (processor.size.height, processor.size.width) if processor.do_resize else (height, width)
        affine = [rw / width / pw, 0.0, 0.0, 0.0, rh / height / ph, 0.0]
        patches = {"affine": affine, "grid": [rh // ph, rw // pw]}
        return [patches, on_grid(patches, (side, side))]

    return ProcessedImages(processor, tiles, kinds=("Gemma3ImageProcessorPil",))


def _expand(config: Any, name: Name) -> str:
    begin, token, end = (name(i) for i in (config.boi_token_id, config.image_token_id, config.eoi_token_id))
    return f"\n\n{begin}{token}{end}\n\n"


SPLICE = Splice(
    token=lambda config: config.image_token_id,
    mark=lambda config: config.boi_token_id,
    extents=llava.extents,
    layout=layout,
    example=llava.example,
    longest=lambda config: layout(config, pair(config.vision_config.image_size)),
    pictures=_pictures,
    prompt="{image}{text}",
    expand=_expand,
    special=lambda config: (config.boi_token_id, config.eoi_token_id),
    beside_ids={"token_type_ids": lambda config, rows: shown(rows)},
)


def family(config: Any) -> Family:
    return Family("gemma3", (llava.vision_tower(config), llava.text_tower(config)), splice=SPLICE)
