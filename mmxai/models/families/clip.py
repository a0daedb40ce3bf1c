"""CLIP (transformers): both towers, or either alone."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import POOLED, Dims

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("self_attn.q_proj", width="q"),
    "k": Tap("self_attn.k_proj", width="kv"),
    "v": Tap("self_attn.v_proj", width="kv"),
    "pattern": Tap("self_attn", "attention"),
    "z": Tap("self_attn.out_proj", "in", width="q"),
    "attn_out": Tap("self_attn"),
    "resid_mid": Tap("layer_norm2", "in", in_place=True),
    "mlp_pre": Tap("mlp.fc1", width="mlp"),
    "mlp_post": Tap("mlp.fc2", "in", width="mlp"),
    "mlp_out": Tap("mlp"),
    "resid_post": Tap(""),
}
ANATOMY = Anatomy("layer_norm1", "layer_norm2", "mlp.activation_fn")


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        mlp=config.intermediate_size,
        joint=whole.projection_dim,
        embed=config.hidden_size,
    )


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
        "ln_final": Tap("post_layernorm", part=POOLED),
        "embeds": Tap("/visual_projection", width="joint", part=POOLED, optional=True),
    },
    input="pixel_values",
    anatomy=ANATOMY,
    method="get_image_features",
    prefix=("cls",),
    readout=ReadOut("first", "/visual_projection", start_norm="pre_layrnorm"),
)

TEXT = Tower(
    name="text",
    roots=("text_model", ""),
    marker="embeddings.token_embedding",
    blocks="encoder.layers",
    config="text_config",
    dims=dims,
    before={"embed": Tap("embeddings.token_embedding")},
    block=BLOCK,
    after={
        "ln_final": Tap("final_layer_norm"),
        "embeds": Tap("/text_projection", width="joint", part=POOLED, optional=True),
    },
    input="input_ids",
    anatomy=ANATOMY,
    method="get_text_features",
    readout=ReadOut("end", "/text_projection", positions=True),
)

FAMILY = Family("clip", (VISION, TEXT))
