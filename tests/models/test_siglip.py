from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel, SiglipTextModel, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmxai.errors import DataError
from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, Block, Reference, close, layer_norm, linear, shake
from .tokenizers_ import word_tokenizer

CONTEXT = 12


def config() -> SiglipConfig:
    return SiglipConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 120,
            "max_position_embeddings": CONTEXT,
            "projection_size": 24,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
    )


def gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


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
            act=gelu,
            norm1=layer_norm(b.layer_norm1),
            norm2=layer_norm(b.layer_norm2),
        )
        for b in encoder.layers
    ]


def pool(head, x: torch.Tensor, heads: int) -> torch.Tensor:
    """The attention head written out: one learned query reads all patches."""
    a = head.attention
    wq, wk, wv = a.in_proj_weight.chunk(3)
    bq, bk, bv = a.in_proj_bias.chunk(3)
    q = F.linear(head.probe.expand(len(x), -1, -1), wq, bq)
    k, v = F.linear(x, wk, bk), F.linear(x, wv, bv)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    mixed = linear(a.out_proj)((weights @ v).transpose(1, 2).flatten(-2))
    hidden = gelu(linear(head.mlp.fc1)(layer_norm(head.layernorm)(mixed)))
    return mixed + linear(head.mlp.fc2)(hidden)


class TestSigLIP(AdapterTests):
    def make(self):
        return SiglipModel(config())

    def tensors(self):
        return {**self.text(), **self.image()}

    def references(self, module, tensors):
        vision, text = module.vision_model, module.text_model

        def start_vision():
            e = vision.embeddings
            x = F.conv2d(tensors["pixel_values"], e.patch_embedding.weight, e.patch_embedding.bias, stride=4)
            return (x.flatten(2).transpose(1, 2) + e.position_embedding.weight,) * 2

        def end_vision(x):
            x = layer_norm(vision.post_layernorm)(x)
            return {"ln_final": x, "embeds": pool(vision.head, x, 2)}

        def start_text():
            embed = text.embeddings.token_embedding.weight[tensors["input_ids"]]
            return embed, embed + text.embeddings.position_embedding.weight[: embed.shape[1]]

        def end_text(x):
            x = layer_norm(text.final_layer_norm)(x)
            return {"ln_final": x, "embeds": linear(text.head)(x[:, -1:])}

        return [
            Reference("vision", start_vision, blocks(vision.encoder, 2), end_vision, causal=False),
            Reference("text", start_text, blocks(text.encoder, 4), end_text, causal=False),
        ]

    def test_embeds_make_the_models_own_scores(self, model, module):
        run = model.run(self.tensors(), capture="*.embeds")
        image, text = (F.normalize(run.acts[f"{t}.embeds"][:, 0], dim=-1) for t in ("vision", "text"))
        scores = image @ text.T * module.logit_scale.exp() + module.logit_bias
        close(scores, run.out.logits_per_image)

    def test_rows(self, model):
        rows = model.run(self.tensors()).rows["vision"]
        assert rows.shape == (3, 16, 8)
        assert rows[2, 6].tolist() == [2, 6, 1, 2, 1, -1, 0, -1]


@pytest.fixture
def fed():
    """A model with its processor and tokenizer."""
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    torch.manual_seed(0)
    return load_model(shake(SiglipModel(config())), processor=processor, tokenizer=word_tokenizer("clip"))


def test_texts_fill_the_context_and_padding_is_read(fed):
    inputs = fed.prepare(["w1 w2 w3", "w4"])
    assert "attention_mask" not in inputs.tensors
    assert inputs.tensors["input_ids"].tolist() == [
        [1, 5, 6, 7, 2] + [0] * 7,
        [1, 8, 2] + [0] * 9,
    ]
    rows = inputs.rows["text"]
    assert rows[1, :, 4].tolist() == [3, 4, 3] + [7] * 9
    run = fed.run(inputs, capture=["text.embeds", "text.ln_final"])
    with torch.no_grad():
        padded = fed.module.text_model(input_ids=inputs.tensors["input_ids"])
    close(run.acts["text.embeds"][:, 0], padded.pooler_output)
    alone = fed.run("w4", capture="text.embeds").acts["text.embeds"]
    close(alone[0], run.acts["text.embeds"][1])  # the same whatever else is in the batch


def test_texts_longer_than_the_context_are_an_error(fed):
    with pytest.raises(DataError, match="12"):
        fed.prepare(" ".join(["w1"] * 11))


def test_pictures_and_texts_check_out(fed):
    pictures = [Image.new("RGB", (20, 14), (200, 10, 40)), Image.new("RGB", (9, 30), (0, 90, 10))]
    report = check(fed, {"image": pictures, "text": ["w1 w2", "w7"]})
    assert report.ok, str(report)


def test_single_towers():
    torch.manual_seed(0)
    vision = load_model(shake(SiglipVisionModel(config().vision_config)))
    assert vision.sites()["vision.embeds"] == 24
    text = load_model(shake(SiglipTextModel(config().text_config)))
    run = text.run({"input_ids": torch.tensor([[3, 4, 2]])}, capture="*")
    assert run.acts["text.embeds"].shape == (1, 1, 24)
    close(run.acts["text.embeds"][:, 0], run.out.pooler_output)
    for model in (vision, text):
        report = check(model)
        assert report.ok, str(report)


def test_a_vision_tower_without_its_head_has_no_embeds():
    bare = config().vision_config
    bare.vision_use_head = False
    model = load_model(shake(SiglipVisionModel(bare)))
    assert "vision.ln_final" in model.sites() and "vision.embeds" not in model.sites()
