from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from mmxai.models import load_model

from .contract import AdapterTests, Block, Reference, layer_norm, linear, shake


def attention(b, heads):
    a = b.attention
    return {
        "heads": heads,
        "q": linear(a.q_proj),
        "k": linear(a.k_proj),
        "v": linear(a.v_proj),
        "o": linear(a.o_proj),
    }


def patches(embeddings, pixels):
    projection = embeddings.patch_embeddings.projection
    return F.conv2d(pixels, projection.weight, projection.bias, stride=4).flatten(2).transpose(1, 2)


class TestViT(AdapterTests):
    def config(self):
        return ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=44,
            image_size=16,
            patch_size=4,
            num_labels=5,
        )

    def make(self):
        return ViTModel(self.config())

    def tensors(self):
        return self.image()

    def references(self, module, tensors):
        e = module.embeddings

        def start():
            x = torch.cat([e.cls_token.expand(3, -1, -1), patches(e, tensors["pixel_values"])], 1)
            return (x + e.position_embeddings,) * 2

        blocks = [
            Block(
                **attention(b, 4),
                up=linear(b.mlp.fc1),
                down=linear(b.mlp.fc2),
                act=F.gelu,
                norm1=layer_norm(b.layernorm_before),
                norm2=layer_norm(b.layernorm_after),
            )
            for b in module.layers
        ]
        end = lambda x: {"ln_final": layer_norm(module.layernorm)(x)}  # noqa: E731
        return [Reference("vision", start, blocks, end, causal=False)]

    def test_last_hidden_state_is_ln_final(self, model):
        run = model.run(self.tensors(), capture="vision.ln_final")
        assert torch.equal(run.acts["vision.ln_final"], run.out.last_hidden_state)

    def test_classifier_head(self, model):
        headed = load_model(shake(ViTForImageClassification(self.config())))
        assert headed.sites() == model.sites()


class TestDinov2(AdapterTests):
    swiglu = False
    registers = 0

    def make(self):
        kwargs = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "image_size": 16,
            "patch_size": 4,
            "use_swiglu_ffn": self.swiglu,
        }
        if self.registers:
            return Dinov2WithRegistersModel(
                Dinov2WithRegistersConfig(num_register_tokens=self.registers, **kwargs)
            )
        return Dinov2Model(Dinov2Config(**kwargs))

    def tensors(self):
        return self.image()

    def references(self, module, tensors):
        e = module.embeddings

        def start():
            x = torch.cat([e.cls_token.expand(3, -1, -1), patches(e, tensors["pixel_values"])], 1)
            x = x + e.position_embeddings
            if self.registers:
                x = torch.cat([x[:, :1], e.register_tokens.expand(3, -1, -1), x[:, 1:]], 1)
            return x, x

        def mlp(b):
            if self.swiglu:
                m = b.mlp
                return {
                    "up": linear(m.gate_proj),
                    "gated": linear(m.up_proj),
                    "down": linear(m.down_proj),
                    "act": F.silu,
                }
            return {"up": linear(b.mlp.fc1), "down": linear(b.mlp.fc2), "act": F.gelu}

        blocks = [
            Block(
                **attention(b, 4),
                **mlp(b),
                norm1=layer_norm(b.norm1),
                norm2=layer_norm(b.norm2),
                after_attn=lambda x, b=b: x * b.layer_scale1.lambda1,
                after_mlp=lambda x, b=b: x * b.layer_scale2.lambda1,
            )
            for b in module.encoder.layer
        ]
        end = lambda x: {"ln_final": layer_norm(module.layernorm)(x)}  # noqa: E731
        return [Reference("vision", start, blocks, end, causal=False)]


class TestDinov2SwiGLU(TestDinov2):
    swiglu = True


class TestDinov2Registers(TestDinov2):
    registers = 3

    def test_rows(self, model):
        rows = model.run(self.tensors()).rows["vision"]
        assert rows[0, :5, 4].tolist() == [0, 2, 2, 2, 1]
        assert rows[0, 4, 1:4].tolist() == [4, 0, 0]


@pytest.mark.parametrize("size", [16, 24])
def test_dinov2_takes_other_sizes(size):
    model = load_model(shake(TestDinov2().make()))
    run = model.run({"pixel_values": torch.randn(2, 3, size, size)}, capture="vision.1.resid_post")
    assert run.acts["vision.1.resid_post"].shape[1] == 1 + (size // 4) ** 2
