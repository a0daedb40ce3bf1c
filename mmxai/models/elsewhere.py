"""Models of open_clip and timm: loaded by those packages, seen through adapters like any other.

Their objects carry no config, so the sizes an adapter needs are read off the modules.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mmxai.errors import ModelError
from mmxai.models.adapter import bind
from mmxai.models.families import open_clip as open_clip_family
from mmxai.models.families import timm as timm_family
from mmxai.models.feeds import TowerFeeds
from mmxai.models.model import Model
from mmxai.models.parts import Dims

_PACKAGE = {"open_clip": "open_clip_torch", "timm": "timm"}


def load(library: str, spec: str, *, device: Any = None, dtype: Any = None) -> Model:
    """`open_clip:<model>/<pretrained tag or file>` or `timm:<model>`."""
    try:
        package = import_module(library)
    except ImportError as error:
        raise ModelError(
            f"{library}:{spec}: the package {library} cannot be imported here ({error}); "
            f"pip install {_PACKAGE[library]}, or load the model elsewhere and pass the object"
        ) from error
    try:
        if library == "open_clip":
            name, _, weights = spec.partition("/")
            module = package.create_model(name, pretrained=weights or None)
        else:
            module = package.create_model(spec, pretrained=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{library}:{spec}: {library} cannot load it: {error}") from error
    module = module.to(device=device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype=dtype)
    return from_open_clip(module, spec) if library == "open_clip" else from_timm(module, spec)


def recognise(module: nn.Module, name: str) -> Model | None:
    """A model around a loaded open_clip or timm object, None for any other."""
    parts = module._modules
    if hasattr(parts.get("visual"), "conv1") and hasattr(
        getattr(parts["visual"], "transformer", None), "resblocks"
    ):
        return from_open_clip(module, name)
    if {"patch_embed", "blocks", "norm"} <= set(parts) and hasattr(module, "num_prefix_tokens"):
        return from_timm(module, name)
    return None


def from_open_clip(module: nn.Module, name: str) -> Model:
    """An open_clip `CLIP` or `CustomTextCLIP` object."""
    visual: Any = module.get_submodule("visual")
    text_root = "text" if "text" in module._modules else ""
    text: Any = module.get_submodule(text_root)
    patch, image = visual.conv1.kernel_size, visual.image_size
    positions, joint = text.positional_embedding.shape[0], _joint(text)
    config = SimpleNamespace(
        text_root=text_root,
        vision=SimpleNamespace(
            dims=_dims(visual.transformer.resblocks, visual.proj.shape[1]),
            patch_size=patch,
            image_size=image,
            pools_first=bool(getattr(visual, "final_ln_after_pool", False)),
            pool="attention" if getattr(visual, "attn_pool", None) else getattr(visual, "pool_type", "tok"),
        ),
        text=SimpleNamespace(
            dims=_dims(text.transformer.resblocks, joint),
            max_position_embeddings=positions,
            vocab_size=text.token_embedding.num_embeddings,
            pool=getattr(text, "pool_type", getattr(text, "text_pool_type", "argmax")),
        ),
    )
    towers = bind(module, config, open_clip_family.family(config))
    cfg = getattr(visual, "preprocess_cfg", None)
    processor = _processor(visual.image_size, 1.0, cfg["mean"], cfg["std"]) if cfg else None
    feeds = TowerFeeds(towers, processor)
    return Model(module, name=name, family=open_clip_family.family(config), towers=towers, feeds=feeds)


def from_timm(module: nn.Module, name: str) -> Model:
    """A timm `VisionTransformer` object."""
    whole: Any = module
    block, embed = whole.blocks[0], whole.patch_embed
    heads = block.attn.num_heads
    width = block.attn.proj.in_features
    dims = Dims(
        model=whole.embed_dim,
        blocks=len(whole.blocks),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp=block.mlp.fc2.in_features,
        embed=whole.embed_dim,
    )
    registers = getattr(whole, "num_reg_tokens", 0)
    prefix = ("cls",) * (whole.num_prefix_tokens - registers) + ("register",) * registers
    config = SimpleNamespace(
        dims=dims,
        prefix=prefix,
        patch_size=embed.patch_size,
        image_size=embed.img_size,
        pool=getattr(whole, "global_pool", "token"),
    )
    towers = bind(module, config, timm_family.family(config))
    cfg = getattr(whole, "pretrained_cfg", None)
    processor = _processor(embed.img_size, cfg["crop_pct"], cfg["mean"], cfg["std"]) if cfg else None
    feeds = TowerFeeds(towers, processor)
    return Model(module, name=name, family=timm_family.family(config), towers=towers, feeds=feeds)


def _dims(blocks: Any, joint: int) -> Dims:
    block = blocks[0]
    heads, width = block.attn.num_heads, block.attn.embed_dim
    return Dims(
        model=width,
        blocks=len(blocks),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp=block.mlp.c_fc.out_features,
        joint=joint,
        embed=width,
    )


def _joint(text: Any) -> int:
    projection = text.text_projection
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def _processor(size: Any, crop: float, mean: Any, std: Any) -> Any:
    """These libraries' evaluation transform as a transformers processor: bicubic, then centre crop."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    height = size if isinstance(size, int) else size[0]
    return CLIPImageProcessorPil(
        size={"shortest_edge": int(height / crop)},
        crop_size={"height": height, "width": height},
        image_mean=list(mean),
        image_std=list(std),
    )
