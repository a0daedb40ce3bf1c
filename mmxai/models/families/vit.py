"""ViT (transformers)."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attention.q_proj", width="q"),
    "k": Tap("attention.k_proj", width="kv"),
    "v": Tap("attention.v_proj", width="kv"),
    "pattern": Tap("attention", "attention"),
    "z": Tap("attention.o_proj", "in", width="q"),
    "attn_out": Tap("attention"),
    "resid_mid": Tap("layernorm_after", "in", in_place=True),
    "mlp_pre": Tap("mlp.fc1", width="mlp"),
    "mlp_post": Tap("mlp.fc2", "in", width="mlp"),
    "mlp_out": Tap("mlp"),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
        mlp=config.intermediate_size,
        embed=config.hidden_size,
    )


FAMILY = Family(
    "vit",
    (
        Tower(
            name="vision",
            roots=("vit", ""),
            marker="embeddings.patch_embeddings",
            blocks="layers",
            dims=dims,
            before={"embed": Tap("embeddings")},
            block=BLOCK,
            after={"ln_final": Tap("layernorm")},
            input="pixel_values",
            anatomy=Anatomy("layernorm_before", "layernorm_after", "mlp.activation_fn"),
            prefix=("cls",),
            readout=ReadOut("first", "/classifier", logits=True),
        ),
    ),
)
