"""The encoders of T5, mT5 and UMT5 (transformers): alone, as diffusion models have them, or of a whole model.

Of a whole encoder-decoder the encoder alone is run; its decoder has no sites. Positions are relative, a bias
in attention's scores, so that any length can be read; `LENGTH` is what these models were trained on.
"""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims

LENGTH = 512


def dims(config: Any, whole: Any) -> Dims:
    return Dims(
        model=config.d_model,
        blocks=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_heads,
        head_dim=config.d_kv,
        mlp=config.d_ff,
        embed=config.d_model,
    )


def family(config: Any) -> Family:
    gated = config.is_gated_act
    mlp = "layer.1.DenseReluDense"
    return Family(
        "t5",
        (
            Tower(
                name="text",
                roots=("encoder",),
                marker="embed_tokens",
                blocks="block",
                dims=dims,
                before={"embed": Tap("embed_tokens", width="embed")},
                block={
                    "resid_pre": Tap("", "in"),
                    "q": Tap("layer.0.SelfAttention.q", width="q"),
                    "k": Tap("layer.0.SelfAttention.k", width="kv"),
                    "v": Tap("layer.0.SelfAttention.v", width="kv"),
                    "pattern": Tap("layer.0.SelfAttention", "attention"),
                    "z": Tap("layer.0.SelfAttention.o", "in", width="q"),
                    "attn_out": Tap("layer.0.SelfAttention"),
                    "resid_mid": Tap("layer.0"),
                    "mlp_pre": Tap(f"{mlp}.{'wi_0' if gated else 'wi'}", width="mlp"),
                    "mlp_post": Tap(f"{mlp}.wo", "in", width="mlp"),
                    "mlp_out": Tap(mlp),
                    "resid_post": Tap(""),
                },
                after={"ln_final": Tap("final_layer_norm")},
                input="input_ids",
                anatomy=Anatomy(
                    "layer.0.layer_norm", "layer.1.layer_norm", f"{mlp}.act", f"{mlp}.wi_1" if gated else ""
                ),
                method="encoder",
                length=LENGTH,
                readout=ReadOut("last"),
            ),
        ),
    )
