from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from mmxai.models import load_model

from .contract import AdapterTests, Block, Reference, close, layer_norm, linear, shake

EOS = 61


def config() -> CLIPConfig:
    return CLIPConfig(
        projection_dim=20,
        text_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 12,
            "projection_dim": 20,
            "bos_token_id": 60,
            "eos_token_id": EOS,
            "pad_token_id": 62,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "projection_dim": 20,
        },
    )


def blocks(encoder, heads: int) -> list[Block]:
    return [
        Block(
            heads=heads,
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
        for b in encoder.layers
    ]


class TestCLIP(AdapterTests):
    def make(self):
        return CLIPModel(config())

    def tensors(self):
        text = self.text()
        text["input_ids"][torch.arange(3), text["attention_mask"].sum(1) - 1] = EOS
        return {**text, **self.image()}

    def references(self, module, tensors):
        vision, text = module.vision_model, module.text_model

        def start_vision():
            e = vision.embeddings
            patches = (
                F.conv2d(tensors["pixel_values"], e.patch_embedding.weight, stride=4)
                .flatten(2)
                .transpose(1, 2)
            )
            x = torch.cat([e.class_embedding.expand(3, 1, -1), patches], 1) + e.position_embedding.weight
            return x, layer_norm(vision.pre_layrnorm)(x)

        def end_vision(x):
            pooled = layer_norm(vision.post_layernorm)(x[:, :1])
            return {"ln_final": pooled, "embeds": F.linear(pooled, module.visual_projection.weight)}

        def start_text():
            embed = text.embeddings.token_embedding.weight[tensors["input_ids"]]
            return embed, embed + text.embeddings.position_embedding.weight[: embed.shape[1]]

        def end_text(x):
            x = layer_norm(text.final_layer_norm)(x)
            last = (tensors["input_ids"] == EOS).int().argmax(1)
            pooled = x[torch.arange(3), last][:, None]
            return {"ln_final": x, "embeds": F.linear(pooled, module.text_projection.weight)}

        return [
            Reference("vision", start_vision, blocks(vision.encoder, 2), end_vision, causal=False),
            Reference("text", start_text, blocks(text.encoder, 4), end_text),
        ]

    def test_which_towers_run_follows_the_inputs(self, model):
        tensors = self.tensors()
        run = model.run({"pixel_values": tensors["pixel_values"]}, capture="vision.*")
        assert set(run.rows) == {"vision", "vision.pooled"}
        assert run.out.pooler_output.shape == (3, 20)
        close(run.acts["vision.embeds"][:, 0], run.out.pooler_output)

    def test_rows(self, model):
        run = model.run(self.tensors())
        vision = run.rows["vision"]
        assert vision.shape == (3, 17, 8)
        assert vision[1, 0].tolist() == [1, 0, -1, -1, 0, -1, 0, -1]
        assert vision[2, 6].tolist() == [2, 6, 1, 1, 1, -1, 0, -1]
        assert run.rows["text"][1, 5, 4].item() == 7
        assert run.rows["text.pooled"].shape == (3, 1, 8)


def test_single_towers():
    torch.manual_seed(0)
    alone = load_model(shake(CLIPVisionModel(config().vision_config)))
    assert "vision.ln_final" in alone.sites() and "vision.embeds" not in alone.sites()
    assert not any(s.startswith("text") for s in alone.sites())
    projected = load_model(shake(CLIPVisionModelWithProjection(config().vision_config)))
    assert projected.sites()["vision.embeds"] == 20
    text = load_model(shake(CLIPTextModelWithProjection(config().text_config)))
    run = text.run({"input_ids": torch.tensor([[3, 4, EOS]])}, capture="*")
    assert run.acts["text.embeds"].shape == (1, 1, 20)
