"""DINOv2, with and without registers (transformers). LayerScale belongs to attn_out and mlp_out."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims

ATTENTION = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attention.q_proj", width="q"),
    "k": Tap("attention.k_proj", width="kv"),
    "v": Tap("attention.v_proj", width="kv"),
    "pattern": Tap("attention", "attention"),
    "z": Tap("attention.o_proj", "in", width="q"),
    "attn_out": Tap("layer_scale1"),
    "resid_mid": Tap("norm2", "in", in_place=True),
}
MLP = {"mlp_pre": Tap("mlp.fc1", width="mlp"), "mlp_post": Tap("mlp.fc2", "in", width="mlp")}
SWIGLU = {"mlp_pre": Tap("mlp.gate_proj", width="mlp"), "mlp_post": Tap("mlp.down_proj", "in", width="mlp")}
OUT = {"mlp_out": Tap("layer_scale2"), "resid_post": Tap("")}


def dims(config: Any, whole: Any) -> Dims:
    hidden = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
        mlp=hidden,
        embed=config.hidden_size,
    )


def family(config: Any) -> Family:
    registers = getattr(config, "num_register_tokens", 0)
    return Family(
        "dinov2",
        (
            Tower(
                name="vision",
                roots=("dinov2", "dinov2_with_registers", ""),
                marker="embeddings.patch_embeddings",
                blocks="encoder.layer",
                dims=dims,
                before={"embed": Tap("embeddings")},
                block={**ATTENTION, **(SWIGLU if config.use_swiglu_ffn else MLP), **OUT},
                after={"ln_final": Tap("layernorm")},
                input="pixel_values",
                anatomy=Anatomy("norm1", "norm2", "mlp.act_fn", "mlp.up_proj")
                if config.use_swiglu_ffn
                else Anatomy("norm1", "norm2", "mlp.activation_fn"),
                prefix=("cls", *["register"] * registers),
                readout=ReadOut("first"),
            ),
        ),
    )
