"""Tiny models with pictures in their text, and their towers as functions of the weights."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlamaConfig, SiglipVisionConfig

from .contract import Block, Reference, layer_norm, linear, rms_norm, rope

IMAGE = 63


def clip_config(**changes) -> CLIPVisionConfig:
    given = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 2}
    return CLIPVisionConfig(**given | {"image_size": 16, "patch_size": 4} | changes)


def llama_config(**changes) -> LlamaConfig:
    given = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    given |= {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 96}
    return LlamaConfig(**given | changes)


def clip_reference(vision, pixels: torch.Tensor) -> Reference:
    """Of pictures `[tiles, 3, H, W]`."""
    patch = vision.config.patch_size
    blocks = [
        Block(
            heads=vision.config.num_attention_heads,
            q=linear(b.self_attn.q_proj),
            k=linear(b.self_attn.k_proj),
            v=linear(b.self_attn.v_proj),
            o=linear(b.self_attn.out_proj),
            up=linear(b.mlp.fc1),
            down=linear(b.mlp.fc2),
            act=lambda x: x * torch.sigmoid(1.702 * x),
            norm1=layer_norm(b.layer_norm1),
            norm2=layer_norm(b.layer_norm2),
        )
        for b in vision.encoder.layers
    ]

    def start():
        e = vision.embeddings
        patches = F.conv2d(pixels, e.patch_embedding.weight, stride=patch).flatten(2).transpose(1, 2)
        first = e.class_embedding.expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + e.position_embedding.weight
        return x, layer_norm(vision.pre_layrnorm)(x)

    def end(x):
        return {"ln_final": layer_norm(vision.post_layernorm)(x[:, :1])}

    return Reference("vision", start, blocks, end, causal=False)


def llama_reference(language, ids: torch.Tensor, soft: torch.Tensor, image: int = IMAGE) -> Reference:
    """Of texts whose placeholders are replaced, in order, by soft tokens `[n, D]`. Also Qwen2."""
    config = language.config
    theta = config.rope_parameters["rope_theta"]
    blocks = [
        Block(
            heads=config.num_attention_heads,
            q=linear(b.self_attn.q_proj),
            k=linear(b.self_attn.k_proj),
            v=linear(b.self_attn.v_proj),
            o=linear(b.self_attn.o_proj),
            up=linear(b.mlp.gate_proj),
            gated=linear(b.mlp.up_proj),
            down=linear(b.mlp.down_proj),
            act=F.silu,
            norm1=rms_norm(b.input_layernorm),
            norm2=rms_norm(b.post_attention_layernorm),
            turn=lambda x: rope(x, theta),
        )
        for b in language.layers
    ]

    def start():
        embed = language.embed_tokens.weight[ids]
        x = embed.clone()
        x[ids == image] = soft
        return embed, x

    return Reference("text", start, blocks, lambda x: {"ln_final": rms_norm(language.norm)(x)})


def projected(module, states: torch.Tensor) -> torch.Tensor:
    """The projector of LLaVA, of states `[..., D]`."""
    p = module.multi_modal_projector
    return linear(p.linear_2)(F.gelu(linear(p.linear_1)(states)))


def siglip_config(**changes) -> SiglipVisionConfig:
    given = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2}
    return SiglipVisionConfig(
        **given | {"image_size": 16, "patch_size": 4, "vision_use_head": False} | changes
    )


def siglip_reference(vision, pixels: torch.Tensor) -> Reference:
    """Of pictures `[tiles, 3, H, W]`; as CLIP's without class token and first norm."""
    like = clip_reference(vision, pixels)
    for block in like.blocks:
        block.act = lambda x: F.gelu(x, approximate="tanh")

    def start():
        e = vision.embeddings
        stride = vision.config.patch_size
        patches = F.conv2d(pixels, e.patch_embedding.weight, e.patch_embedding.bias, stride=stride)
        x = patches.flatten(2).transpose(1, 2) + e.position_embedding.weight
        return x, x

    return Reference(
        "vision",
        start,
        like.blocks,
        lambda x: {"ln_final": layer_norm(vision.post_layernorm)(x)},
        causal=False,
    )
