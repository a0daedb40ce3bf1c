"""BLIP-2 with OPT: a ViT, a Q-Former whose query tokens read it, OPT.

A soft token is what a query makes of the whole picture, so it shows no cell: y = x = -1. The Q-Former itself
has no sites; `projector` is the matrix behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mmxai.errors import ModelError
from mmxai.models.adapter import Family, Tap, Tower
from mmxai.models.families import clip, llava, opt
from mmxai.models.images import ImagePipeline
from mmxai.models.parts import Dims, Third, pair
from mmxai.models.splice import Extent, Layout, Splice, beside, cells, inside, single

FUSED = {
    "q": Tap("self_attn.qkv", width="q", part=Third(0)),
    "k": Tap("self_attn.qkv", width="kv", part=Third(1)),
    "v": Tap("self_attn.qkv", width="kv", part=Third(2)),
    "z": Tap("self_attn.projection", "in", width="q"),
}


def _dims(own: Any, whole: Any) -> Dims:
    return Dims(
        model=own.hidden_size,
        blocks=own.num_hidden_layers,
        heads=own.num_attention_heads,
        kv_heads=own.num_attention_heads,
        head_dim=own.hidden_size // own.num_attention_heads,
        mlp=own.intermediate_size,
        joint=whole.text_config.hidden_size,
        embed=own.hidden_size,
    )


VISION = Tower(
    name="vision",
    roots=("vision_model",),
    marker="embeddings.patch_embedding",
    blocks="encoder.layers",
    config="vision_config",
    dims=_dims,
    before={"embed": Tap("embeddings")},
    block={**clip.BLOCK, **FUSED},
    after={},
    input="pixel_values",
    anatomy=clip.ANATOMY,
    method="get_image_features",
    prefix=("cls",),
    beside=beside("/language_projection"),
)


def layout(config: Any, extent: Extent) -> Layout:
    """extent: height and width of the pixels."""
    (height, width), (ph, pw) = extent, pair(config.vision_config.patch_size)
    patches = torch.cat([single("cls", 0), cells("patch", 0, height // ph, width // pw)])
    tokens = single("image", 0).repeat(config.num_query_tokens, 1)
    return Layout(vision=patches, pooled=single("", 0), projector=tokens, text=tokens, tiles=1)


SPLICE = Splice(
    token=lambda config: config.image_token_id,
    extents=llava.extents,
    layout=layout,
    example=lambda config: {"pixel_values": torch.zeros(3, *pair(config.vision_config.image_size))},
    longest=lambda config: layout(config, pair(config.vision_config.image_size)),
    pictures=lambda processor, config: ImagePipeline(processor, pair(config.vision_config.patch_size)),
    prompt="{image}{bos}{text}",
    bare=True,
)


def family(config: Any) -> Family:
    if config.text_config.model_type != "opt":
        raise ModelError(
            f"BLIP-2: got a {config.text_config.model_type} language model, expected OPT; use "
            "mmxai.wrap(module) to reach its modules by path"
        )
    tower = opt.family(config.text_config).towers[0]
    readout = tower.readout and replace(tower.readout, matrix="/language_model.lm_head")
    text = inside(
        tower,
        ("language_model",),
        "text_config",
        readout=readout,
        logits=tower.logits and "/language_model.lm_head",
        method="language_model",  # without a picture: the whole model's forward wants one
    )
    return Family("blip_2", (VISION, text), splice=SPLICE)
