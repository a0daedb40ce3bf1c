"""GPT-2: one fused projection holds q, k and v."""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims, Third

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attn.c_attn", width="q", part=Third(0)),
    "k": Tap("attn.c_attn", width="kv", part=Third(1)),
    "v": Tap("attn.c_attn", width="kv", part=Third(2)),
    "pattern": Tap("attn", "attention"),
    "z": Tap("attn.c_proj", "in", width="q"),
    "attn_out": Tap("attn"),
    "resid_mid": Tap("ln_2", "in", in_place=True),
    "mlp_pre": Tap("mlp.c_fc", width="mlp"),
    "mlp_post": Tap("mlp.c_proj", "in", width="mlp"),
    "mlp_out": Tap("mlp"),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.n_embd,
        blocks=config.n_layer,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        mlp=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        embed=config.n_embd,
    )


FAMILY = Family(
    "gpt2",
    (
        Tower(
            name="text",
            roots=("transformer", ""),
            marker="wte",
            blocks="h",
            dims=dims,
            before={"embed": Tap("wte", width="embed")},
            block=BLOCK,
            after={"ln_final": Tap("ln_f")},
            input="input_ids",
            anatomy=Anatomy("ln_1", "ln_2", "mlp.act"),
            kwargs={"use_cache": False},
            readout=ReadOut("last", "/lm_head", positions=True, logits=True),
        ),
    ),
)
