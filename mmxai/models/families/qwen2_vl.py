"""Qwen2-VL and Qwen2.5-VL: a vision tower over patches of any grid, a merger of 2 x 2 of them, Qwen2.

Patches pass in the order of the merger's blocks, and in Qwen2.5-VL those in the order of the windows that its
attention is cut into; the merger's output is put back into picture order behind it. Layouts follow that
order, so that y and x are true at every site. A picture has two tiles in the record: 0 is the grid of
patches, 1 the merged grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.models.adapter import Anatomy, Family, Tap, Tower
from mmxai.models.families import llama
from mmxai.models.geometry import on_grid
from mmxai.models.parts import Dims, Third
from mmxai.models.processed import ProcessedImages
from mmxai.models.splice import Extent, Layout, Pictures, Splice, beside, cells, inside, shown, soft

LIMIT = 16384
"""Merged cells of the largest picture that a published checkpoint's processor makes; the processor at hand
says its own."""

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attn.qkv", width="q", part=Third(0)),
    "k": Tap("attn.qkv", width="kv", part=Third(1)),
    "v": Tap("attn.qkv", width="kv", part=Third(2)),
    "z": Tap("attn.proj", "in", width="q"),
    "attn_out": Tap("attn"),
    "resid_mid": Tap("norm2", "in", in_place=True),
}
PLAIN = {"mlp_pre": Tap("mlp.fc1", width="mlp"), "mlp_post": Tap("mlp.fc2", "in", width="mlp")}
GATED = {"mlp_pre": Tap("mlp.gate_proj", width="mlp"), "mlp_post": Tap("mlp.down_proj", "in", width="mlp")}
OUT = {"mlp_out": Tap("mlp"), "resid_post": Tap("")}


def _windowed(config: Any) -> bool:
    return config.model_type == "qwen2_5_vl"


def _dims(own: Any, whole: Any) -> Dims:
    windowed = _windowed(whole)
    width = own.hidden_size if windowed else own.embed_dim
    return Dims(
        model=width,
        blocks=own.depth,
        heads=own.num_heads,
        kv_heads=own.num_heads,
        head_dim=width // own.num_heads,
        mlp=own.intermediate_size if windowed else int(width * own.mlp_ratio),
        joint=whole.text_config.hidden_size,
        embed=width,
    )


def _vision(config: Any) -> Tower:
    windowed = _windowed(config)
    return Tower(
        name="vision",
        roots=("model.visual", "visual"),
        marker="patch_embed",
        blocks="blocks",
        config="vision_config",
        dims=_dims,
        # Windows are made behind patch_embed: the first block's input is in the order of all other sites.
        before={"embed": Tap("blocks.0", "in") if windowed else Tap("patch_embed")},
        block={**BLOCK, **(GATED if windowed else PLAIN), **OUT},
        after={},
        input="pixel_values",
        anatomy=Anatomy("norm1", "norm2", "mlp.act_fn", "mlp.up_proj")
        if windowed
        else Anatomy("norm1", "norm2", "mlp.act"),
        method="get_image_features",
        beside=beside("merger"),
    )


def _text(config: Any) -> Tower:
    tower = llama.family(config.text_config).towers[0]
    return inside(replace(tower, roots=("",)), ("model.language_model", "language_model"), "text_config")


def _merge(config: Any) -> int:
    return int(config.vision_config.spatial_merge_size)


def _order(config: Any, height: int, width: int) -> torch.Tensor:
    """Merged cells `[height * width]`, as numbers in picture order, in the order in which they pass."""
    index = torch.arange(height * width)
    if not _windowed(config):
        return index
    vision = config.vision_config
    side = vision.window_size // _merge(config) // vision.patch_size
    y, x = index // width, index % width
    across = -(-width // side)
    window = (y // side) * across + x // side
    return torch.argsort(window, stable=True)  # inside a window: picture order


def layout(config: Any, extent: Extent) -> Layout:
    """extent: (1, height, width) of the grid of patches."""
    _, height, width = extent
    merge = _merge(config)
    merged = cells("patch", 1, height // merge, width // merge)
    passing = merged[_order(config, height // merge, width // merge)]
    within = cells("patch", 0, merge, merge)
    patches = passing.repeat_interleave(len(within), 0)
    patches[:, 1] = 0
    patches[:, 2:] = patches[:, 2:] * merge + within[:, 2:].repeat(len(passing), 1)
    none = torch.empty(0, 4, dtype=torch.int32)
    return Layout(vision=patches, pooled=none, projector=soft(passing), text=soft(merged), tiles=2)


def extents(config: Any, tensors: Mapping[str, torch.Tensor]) -> list[Extent]:
    if "image_grid_thw" not in tensors:
        raise ArgumentError(
            f"inputs: got {sorted(tensors)}, expected image_grid_thw beside pixel_values: (1, height, width) "
            "of each picture's grid of patches"
        )
    grids = [tuple(grid) for grid in tensors["image_grid_thw"].tolist()]
    if any(grid[0] != 1 for grid in grids):
        raise ArgumentError(f"image_grid_thw: got {grids}, expected pictures, whose first number is 1")
    return grids


def _blank(config: Any, height: int, width: int) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    grid = torch.tensor([[1, height, width]])
    return {"pixel_values": torch.zeros(height * width, values), "image_grid_thw": grid}


def _example(config: Any) -> dict[str, torch.Tensor]:
    """Two windows, where there are windows."""
    merge, vision = _merge(config), config.vision_config
    side = vision.window_size // merge // vision.patch_size if _windowed(config) else 2
    return _blank(config, (side + 1) * merge, side * merge)


def _longest(config: Any, merged: int = LIMIT) -> Layout:
    """Of so many merged cells, in whatever shape."""
    return layout(config, (1, _merge(config), merged * _merge(config)))


def _limit(processor: Any, config: Any) -> Layout:
    if not processor.do_resize:
        return _longest(config)
    return _longest(
        config, max(1, processor.size.longest_edge // (processor.patch_size * processor.merge_size) ** 2)
    )


def _pictures(processor: Any, config: Any) -> Pictures:
    def tiles(processor: Any, width: int, height: int) -> list[dict[str, Any]]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        patch, merge, size = processor.patch_size, processor.merge_size, processor.size
        rh, rw = height, width
        if processor.do_resize:
            rh, rw = smart_resize(height, width, patch * merge, size.shortest_edge, size.longest_edge)
        affine = [rw / width / patch, 0.0, 0.0, 0.0, rh / height / patch, 0.0]
        patches = {"affine": affine, "grid": [rh // patch, rw // patch]}
        return [patches, on_grid(patches, (rh // patch // merge, rw // patch // merge))]

    names = ("pixel_values", "image_grid_thw")
    return ProcessedImages(processor, tiles, kinds=("Qwen2VLImageProcessorPil",), names=names, whole=names)


SPLICE = Splice(
    token=lambda config: config.image_token_id,
    extents=extents,
    layout=layout,
    example=_example,
    longest=_longest,
    limit=_limit,
    pictures=_pictures,
    prompt="<|vision_start|>{image}<|vision_end|>{text}",
    join={"pixel_values": "cat", "image_grid_thw": "cat"},
    special=lambda config: (config.vision_start_token_id, config.vision_end_token_id),
    beside_ids={"mm_token_type_ids": lambda config, rows: shown(rows)},
)


def family(config: Any) -> Family:
    return Family("qwen2_vl", (_vision(config), _text(config)), splice=SPLICE)
