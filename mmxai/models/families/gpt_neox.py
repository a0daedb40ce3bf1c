"""GPT-NeoX (Pythia): fused projection interleaved by head, attention and MLP side by side.

With `use_parallel_residual` (the default) no point of the network is resid_mid, so the site does not exist.
"""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims, Interleaved

ATTENTION = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attention.query_key_value", width="q", part=Interleaved(0)),
    "k": Tap("attention.query_key_value", width="kv", part=Interleaved(1)),
    "v": Tap("attention.query_key_value", width="kv", part=Interleaved(2)),
    "pattern": Tap("attention", "attention"),
    "z": Tap("attention.dense", "in", width="q"),
    "attn_out": Tap("attention"),
}
MID = {"resid_mid": Tap("post_attention_layernorm", "in", in_place=True)}
MLP = {
    "mlp_pre": Tap("mlp.dense_h_to_4h", width="mlp"),
    "mlp_post": Tap("mlp.dense_4h_to_h", "in", width="mlp"),
    "mlp_out": Tap("mlp"),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        mlp=config.intermediate_size,
        embed=config.hidden_size,
    )


def family(config: Any) -> Family:
    parallel = config.use_parallel_residual
    return Family(
        "gpt_neox",
        (
            Tower(
                name="text",
                roots=("gpt_neox", ""),
                marker="embed_in",
                blocks="layers",
                dims=dims,
                before={"embed": Tap("embed_in", width="embed")},
                block={**ATTENTION, **({} if parallel else MID), **MLP},
                after={"ln_final": Tap("final_layer_norm")},
                input="input_ids",
                anatomy=Anatomy("input_layernorm", "post_attention_layernorm", "mlp.act"),
                kwargs={"use_cache": False},
                readout=ReadOut("last", "/lm_head", logits=True),
            ),
        ),
        residual="parallel" if parallel else "sequential",
    )
