"""Llama, Mistral, Qwen2 and Qwen3 (whose q and k are seen after their head norms)."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import WHOLE, Dims, HeadsLast

QK = {"q": Tap("self_attn.q_proj", width="q"), "k": Tap("self_attn.k_proj", width="kv")}
QK_NORMED = {
    "q": Tap("self_attn.q_norm", width="q", part=HeadsLast()),
    "k": Tap("self_attn.k_norm", width="kv", part=HeadsLast()),
}
PROJECTIONS = {"q": ("self_attn.q_proj", WHOLE), "k": ("self_attn.k_proj", WHOLE)}
REST = {
    "v": Tap("self_attn.v_proj", width="kv"),
    "pattern": Tap("self_attn", "attention"),
    "z": Tap("self_attn.o_proj", "in", width="q"),
    "attn_out": Tap("self_attn"),
    "resid_mid": Tap("post_attention_layernorm", "in", in_place=True),
    "mlp_pre": Tap("mlp.gate_proj", width="mlp"),
    "mlp_post": Tap("mlp.down_proj", "in", width="mlp"),
    "mlp_out": Tap("mlp"),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    heads = config.num_attention_heads
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp=config.intermediate_size,
        embed=config.hidden_size,
    )


def family(config: Any) -> Family:
    normed = config.model_type == "qwen3"
    return Family(
        "llama",
        (
            Tower(
                name="text",
                roots=("model", ""),
                marker="embed_tokens",
                blocks="layers",
                dims=dims,
                before={"embed": Tap("embed_tokens", width="embed")},
                block={"resid_pre": Tap("", "in"), **(QK_NORMED if normed else QK), **REST},
                after={"ln_final": Tap("norm")},
                input="input_ids",
                anatomy=Anatomy(
                    "input_layernorm",
                    "post_attention_layernorm",
                    "mlp.act_fn",
                    "mlp.up_proj",
                    heads=PROJECTIONS if normed else {},
                ),
                kwargs={"use_cache": False},
                readout=ReadOut("last", "/lm_head", logits=True),
            ),
        ),
    )
