"""BERT and its kin of the same structure: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA. Post-norm.

resid_mid and resid_post are behind the norms, so that resid_post of a block is resid_pre of the next and
transformers' hidden state; attn_out and mlp_out are what the norms get added to the stream.
"""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attention.self.query", width="q"),
    "k": Tap("attention.self.key", width="kv"),
    "v": Tap("attention.self.value", width="kv"),
    "pattern": Tap("attention.self", "attention"),
    "z": Tap("attention.output.dense", "in", width="q"),
    "attn_out": Tap("attention.output.dense"),
    "resid_mid": Tap("attention.output.LayerNorm"),
    "mlp_pre": Tap("intermediate.dense", width="mlp"),
    "mlp_post": Tap("output.dense", "in", width="mlp"),
    "mlp_out": Tap("output.dense"),
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
        embed=getattr(config, "embedding_size", config.hidden_size),
    )


FAMILY = Family(
    "bert",
    (
        Tower(
            name="text",
            roots=("bert", "roberta", "electra", ""),
            marker="embeddings.word_embeddings",
            blocks="encoder.layer",
            dims=dims,
            before={"embed": Tap("embeddings.word_embeddings", width="embed")},
            block=BLOCK,
            after={},
            input="input_ids",
            anatomy=Anatomy(
                "attention.output.LayerNorm", "output.LayerNorm", "intermediate.intermediate_act_fn"
            ),
            readout=ReadOut("first"),
        ),
    ),
    residual="post-norm",
    final_norm=False,
    transformer_lens={
        "hook_resid_mid": "",
        "hook_resid_post": "",
        "hook_normalized_resid_mid": "resid_mid",
        "hook_normalized_resid_post": "resid_post",
    },
)
