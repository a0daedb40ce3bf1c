"""Gemma, Gemma 2, Gemma 3 (text). Post-norms belong to attn_out and mlp_out; embed is scaled."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.families.llama import PROJECTIONS, QK, dims
from mmxai.models.parts import HeadsFirst

QK_NORMED = {
    "q": Tap("self_attn.q_norm", width="q", part=HeadsFirst()),
    "k": Tap("self_attn.k_norm", width="kv", part=HeadsFirst()),
}
ATTENTION = {
    "v": Tap("self_attn.v_proj", width="kv"),
    "pattern": Tap("self_attn", "attention"),
    "z": Tap("self_attn.o_proj", "in", width="q"),
}
MLP = {"mlp_pre": Tap("mlp.gate_proj", width="mlp"), "mlp_post": Tap("mlp.down_proj", "in", width="mlp")}
PLAIN = {
    "attn_out": Tap("self_attn"),
    "resid_mid": Tap("post_attention_layernorm", "in", in_place=True),
    **MLP,
    "mlp_out": Tap("mlp"),
}
POST_NORMED = {
    "attn_out": Tap("post_attention_layernorm"),
    "resid_mid": Tap("pre_feedforward_layernorm", "in", in_place=True),
    **MLP,
    "mlp_out": Tap("post_feedforward_layernorm"),
}


def family(config: Any) -> Family:
    first = config.model_type == "gemma"
    heads_normed = config.model_type == "gemma3_text"
    return Family(
        "gemma",
        (
            Tower(
                name="text",
                roots=("model", ""),
                marker="embed_tokens",
                blocks="layers",
                dims=dims,
                before={"embed": Tap("embed_tokens", width="embed")},
                block={
                    "resid_pre": Tap("", "in"),
                    **(QK_NORMED if heads_normed else QK),
                    **ATTENTION,
                    **(PLAIN if first else POST_NORMED),
                    "resid_post": Tap(""),
                },
                after={"ln_final": Tap("norm")},
                input="input_ids",
                anatomy=Anatomy(
                    "input_layernorm",
                    "post_attention_layernorm" if first else "pre_feedforward_layernorm",
                    "mlp.act_fn",
                    "mlp.up_proj",
                    heads=PROJECTIONS if heads_normed else {},
                ),
                kwargs={"use_cache": False},
                readout=ReadOut("last", "/lm_head", logits=True),
            ),
        ),
    )
