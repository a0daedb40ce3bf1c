"""SigLIP (transformers): both towers, or either alone. No class token: an attention head pools the patches.

Texts fill the whole context and the text tower reads their padding, as it was trained; it is pooled at the
last position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmxai.models.adapter import Family, Tap, Tower
from mmxai.models.families.clip import ANATOMY, BLOCK
from mmxai.models.parts import POOLED, Dims


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        mlp=config.intermediate_size,
        joint=config.hidden_size,
        embed=config.hidden_size,
    )


def text_dims(config: Any, whole: Any) -> Dims:
    return replace(dims(config, whole), joint=config.projection_size)


VISION = Tower(
    name="vision",
    roots=("vision_model", ""),
    marker="embeddings.patch_embedding",
    blocks="encoder.layers",
    config="vision_config",
    dims=dims,
    before={"embed": Tap("embeddings")},
    block=BLOCK,
    after={
        "ln_final": Tap("post_layernorm"),
        "embeds": Tap("head", width="joint", part=POOLED, optional=True),
    },
    input="pixel_values",
    anatomy=ANATOMY,
    method="get_image_features",
)

TEXT = Tower(
    name="text",
    roots=("text_model", ""),
    marker="embeddings.token_embedding",
    blocks="encoder.layers",
    config="text_config",
    dims=text_dims,
    before={"embed": Tap("embeddings.token_embedding")},
    block=BLOCK,
    after={"ln_final": Tap("final_layer_norm"), "embeds": Tap("head", width="joint", part=POOLED)},
    input="input_ids",
    anatomy=ANATOMY,
    method="get_text_features",
    fill=True,
)

FAMILY = Family("siglip", (VISION, TEXT))
