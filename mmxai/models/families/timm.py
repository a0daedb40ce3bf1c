"""timm's VisionTransformer: fused qkv, optional head norms and LayerScale (identities where absent).

Attention mixes inside a fused call without a place to look, so `pattern` does not exist.
"""

from __future__ import annotations

from typing import Any

from mmxai.models.adapter import Anatomy, Family, ReadOut, Tap, Tower
from mmxai.models.parts import Dims, HeadsFirst, Third

BLOCK = {
    "resid_pre": Tap("", "in"),
    "q": Tap("attn.q_norm", width="q", part=HeadsFirst()),
    "k": Tap("attn.k_norm", width="kv", part=HeadsFirst()),
    "v": Tap("attn.qkv", width="kv", part=Third(2)),
    "z": Tap("attn.proj", "in", width="q"),
    "attn_out": Tap("ls1"),
    "resid_mid": Tap("norm2", "in", in_place=True),
    "mlp_pre": Tap("mlp.fc1", width="mlp"),
    "mlp_post": Tap("mlp.fc2", "in", width="mlp"),
    "mlp_out": Tap("ls2"),
    "resid_post": Tap(""),
}


def dims(config: Any, whole: Any) -> Dims:
    """From what `mmxai.models.elsewhere` read off the modules."""
    return config.dims


def family(config: Any) -> Family:
    tower = Tower(
        name="vision",
        roots=("",),
        marker="patch_embed",
        blocks="blocks",
        dims=dims,
        before={"embed": Tap("norm_pre", "in")},
        block=BLOCK,
        after={"ln_final": Tap("norm")},
        input="pixel_values",
        anatomy=Anatomy(
            "norm1", "norm2", "mlp.act", heads={"q": ("attn.qkv", Third(0)), "k": ("attn.qkv", Third(1))}
        ),
        prefix=config.prefix,
        arguments={"pixel_values": "x"},
        readout=ReadOut("first", "head", logits=True) if config.pool in ("token", "") else None,
    )
    return Family("timm", (tower,))
