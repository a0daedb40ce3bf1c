"""open_clip's CLIP: `visual` and, on the model itself or under `text`, the text transformer.

Its blocks attend through torch's `nn.MultiheadAttention`; see `mmxai.models.multihead` for q, k, v, z and
pattern. The projections are bare parameters: `vision.embeds` is what `visual` returns, and `text.embeds`
exists where the text tower is a module of its own.
"""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import POOLED, WHOLE, Dims

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attn", "multihead", width="q"),
    "k": Tap("attn", "multihead", width="kv"),
    "v": Tap("attn", "multihead", width="kv"),
    "pattern": Tap("attn", "multihead"),
    "z": Tap("attn", "multihead", width="q"),
    "attn_out": Tap("ls_1"),
    "resid_mid": Tap("ln_2", "in", in_place=True),
    "mlp_pre": Tap("mlp.c_fc", width="mlp"),
    "mlp_post": Tap("mlp.c_proj", "in", width="mlp"),
    "mlp_out": Tap("ls_2"),
    "resid_post": Tap(""),
}
ANATOMY = Anatomy("ln_1", "ln_2", "mlp.gelu")


def dims(config: Any, whole: Any) -> Dims:
    """From what `mmxai.models.elsewhere` read off the modules."""
    return config.dims


def family(config: Any) -> Family:
    text_out = {"embeds": Tap("", width="joint", part=POOLED)} if config.text_root == "text" else {}
    vision = Tower(
        name="vision",
        roots=("visual",),
        marker="conv1",
        blocks="transformer.resblocks",
        config="vision",
        dims=dims,
        before={"embed": Tap("ln_pre", "in")},
        block=BLOCK,
        after={
            "ln_final": Tap("ln_post", part=POOLED if config.vision.pools_first else WHOLE),
            "embeds": Tap("", width="joint", part=POOLED),
        },
        input="pixel_values",
        anatomy=ANATOMY,
        method="encode_image",
        prefix=("cls",),
        arguments={"pixel_values": "image"},
        readout=ReadOut("first", "proj", start_norm="ln_pre") if config.vision.pool == "tok" else None,
    )
    text = Tower(
        name="text",
        roots=(config.text_root,),
        marker="token_embedding",
        blocks="transformer.resblocks",
        config="text",
        dims=dims,
        before={"embed": Tap("token_embedding", width="embed")},
        block=BLOCK,
        after={"ln_final": Tap("ln_final"), **text_out},
        input="input_ids",
        anatomy=ANATOMY,
        method="encode_text",
        arguments={"input_ids": "text"},
        readout=ReadOut("end", "text_projection", positions=True) if config.text.pool == "argmax" else None,
    )
    return Family("open_clip", (vision, text))
