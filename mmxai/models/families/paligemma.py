"""PaliGemma: a SigLIP vision tower, one matrix, Gemma (1 or 2).

Prompts read `image ... image <bos> text \\n`, in which every token reads every other: `token_type_ids` of 0
say so, and what is generated behind them is causal.
"""

from __future__ import annotations

from typing import Any

import torch

from mmxai.models.adapter import Family
from mmxai.models.families import llava
from mmxai.models.images import ImagePipeline
from mmxai.models.parts import pair
from mmxai.models.splice import Extent, Layout, Splice, cells, single, soft
from mmxai.types import ROW_COLUMNS, TOKEN_CODES


def layout(config: Any, extent: Extent) -> Layout:
    """extent: height and width of the pixels."""
    (height, width), (ph, pw) = extent, pair(config.vision_config.patch_size)
    rows = cells("patch", 0, height // ph, width // pw)
    return Layout(vision=rows, pooled=single("", 0), projector=soft(rows), text=soft(rows), tiles=1)


def _suffix(rows: torch.Tensor) -> torch.Tensor:
    """int64 `[B, T]` of the text's row table: 1 where a token was generated, which no earlier one reads."""
    return (rows[..., ROW_COLUMNS.index("token_type")] == TOKEN_CODES["generated"]).long()


SPLICE = Splice(
    token=lambda config: config.image_token_id,
    extents=llava.extents,
    layout=layout,
    example=llava.example,
    longest=lambda config: layout(config, pair(config.vision_config.image_size)),
    pictures=lambda processor, config: ImagePipeline(processor, pair(config.vision_config.patch_size)),
    prompt="{image}{bos}{text}\n",
    bare=True,
    beside_ids={"token_type_ids": lambda config, rows: _suffix(rows)},
)


def family(config: Any) -> Family:
    return Family("paligemma", (llava.vision_tower(config), llava.text_tower(config)), splice=SPLICE)
