"""OPT: norms in front of attention and MLP, or behind the sums (OPT-350m); the MLP sees `[B * T, D]`."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims

ATTENTION = {
    "resid_pre": Tap("", "in"),
    "q": Tap("self_attn.q_proj", width="q"),
    "k": Tap("self_attn.k_proj", width="kv"),
    "v": Tap("self_attn.v_proj", width="kv"),
    "pattern": Tap("self_attn", "attention"),
    "z": Tap("self_attn.out_proj", "in", width="q"),
    "attn_out": Tap("self_attn"),
}
PRE_NORM = {"resid_mid": Tap("final_layer_norm", "in", in_place=True, folded=True)}
POST_NORM = {"resid_mid": Tap("self_attn_layer_norm")}
MLP = {
    "mlp_pre": Tap("fc1", width="mlp", folded=True),
    "mlp_post": Tap("fc2", "in", width="mlp", folded=True),
    "mlp_out": Tap("fc2", folded=True),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.hidden_size,
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        mlp=config.ffn_dim,
        embed=config.word_embed_proj_dim,
    )


def family(config: Any) -> Family:
    before = config.do_layer_norm_before
    # Without a last norm, or with project_out behind it, the output is not a norm and one matrix.
    plain = before and not config._remove_final_layer_norm
    plain &= config.word_embed_proj_dim == config.hidden_size
    return Family(
        "opt",
        (
            Tower(
                name="text",
                roots=("model.decoder", "decoder", ""),
                marker="embed_tokens",
                blocks="layers",
                dims=dims,
                before={"embed": Tap("embed_tokens", width="embed")},
                block={**ATTENTION, **(PRE_NORM if before else POST_NORM), **MLP},
                after={"ln_final": Tap("final_layer_norm", optional=True)},
                input="input_ids",
                anatomy=Anatomy("self_attn_layer_norm", "final_layer_norm", "activation_fn"),
                kwargs={"use_cache": False},
                readout=ReadOut("last", "/lm_head", positions=True, logits=True) if plain else None,
                logits="" if plain else "/lm_head",
                project="" if plain else "project_out",
            ),
        ),
        residual="sequential" if before else "post-norm",
        final_norm=plain,
        transformer_lens={}
        if before
        else {
            "hook_resid_mid": "",
            "hook_resid_post": "",
            "hook_normalized_resid_mid": "resid_mid",
            "hook_normalized_resid_post": "resid_post",
        },
    )
