from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mmxai.errors import ModelError
from mmxai.models import load_model
from mmxai.models.check import check
from mmxai.types import TOKEN_CODES

from .contract import AdapterTests, Block, Reference, layer_norm, linear, run_reference, shake
from .multimodal_ import IMAGE, SOFT, TYPE, PlacementTests, X, Y, pictures, prompts, tokenizer
from .test_opt import SIZES

QUERIES = 5


def config(image: int = SOFT, **text) -> Blip2Config:
    return Blip2Config(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        qformer_config={
            "hidden_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 28,
            "vocab_size": 64,
        },
        text_config={
            "model_type": "opt",
            **SIZES,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": 32,
            **text,
        },
        num_query_tokens=QUERIES,
        image_token_index=image,
    )


def vision_reference(vision, pixels: torch.Tensor) -> Reference:
    def part(b, i):
        fused = linear(b.self_attn.qkv)
        return lambda x: fused(x)[..., 24 * i : 24 * (i + 1)]

    blocks = [
        Block(
            heads=2,
            q=part(b, 0),
            k=part(b, 1),
            v=part(b, 2),
            o=linear(b.self_attn.projection),
            up=linear(b.mlp.fc1),
            down=linear(b.mlp.fc2),
            act=F.gelu,
            norm1=layer_norm(b.layer_norm1),
            norm2=layer_norm(b.layer_norm2),
        )
        for b in vision.encoder.layers
    ]

    def start():
        e = vision.embeddings
        x = F.conv2d(pixels, e.patch_embedding.weight, e.patch_embedding.bias, stride=4)
        x = torch.cat([e.class_embedding.expand(len(pixels), 1, -1), x.flatten(2).transpose(1, 2)], 1)
        return (x + e.position_embedding,) * 2

    return Reference("vision", start, blocks, causal=False)


class TestBlip2(PlacementTests, AdapterTests):
    def make(self):
        return Blip2ForConditionalGeneration(config())

    def tensors(self):
        return {**prompts([QUERIES] * 3, 12), "pixel_values": torch.stack(pictures(*[(16, 16)] * 3))}

    def soft(self, module, tensors):
        reference = vision_reference(module.vision_model, tensors["pixel_values"])
        states = run_reference(reference, torch.ones(3, 17, dtype=torch.bool))["vision.1.resid_post"]
        states = layer_norm(module.vision_model.post_layernorm)(states)
        queries = module.query_tokens.expand(3, -1, -1)
        read = module.qformer(query_embeds=queries, encoder_hidden_states=states)[0]  # it has no sites
        return linear(module.language_projection)(read)

    def references(self, module, tensors):
        with torch.no_grad():
            soft = self.soft(module, tensors)
        d, ids = module.language_model.model.decoder, tensors["input_ids"]

        def start():
            embed = d.embed_tokens.weight[ids]
            x = embed.clone()
            x[ids == SOFT] = soft.flatten(0, 1)
            at = (torch.arange(ids.shape[1]) + 2) * tensors["attention_mask"]
            return embed, x + d.embed_positions.weight[at.clamp(min=1)]

        blocks = [
            Block(
                heads=4,
                q=linear(b.self_attn.q_proj),
                k=linear(b.self_attn.k_proj),
                v=linear(b.self_attn.v_proj),
                o=linear(b.self_attn.out_proj),
                up=linear(b.fc1),
                down=linear(b.fc2),
                act=F.gelu,
                norm1=layer_norm(b.self_attn_layer_norm),
                norm2=layer_norm(b.final_layer_norm),
            )
            for b in d.layers
        ]
        end = lambda x: {"ln_final": layer_norm(d.final_layer_norm)(x)}  # noqa: E731
        return [
            vision_reference(module.vision_model, tensors["pixel_values"]),
            Reference("text", start, blocks, end),
        ]

    def others(self, module, tensors):
        return {"projector": self.soft(module, tensors)}

    def states(self, module, tower, tensors, towers):
        if tower.name == "text":
            out = module(**tensors, output_hidden_states=True)
            return out.language_model_outputs.hidden_states
        return module.vision_model(tensors["pixel_values"], output_hidden_states=True).hidden_states

    def test_a_patch_arrives_at_its_soft_token(self, model):
        """Every query reads every patch: soft tokens have no cell."""
        tensors = self.tensors()
        plain = model.run(tensors, capture="projector")
        assert (plain.rows["projector"][..., [Y, X]] == -1).all()
        edit = {"vision.1.resid_post": lambda v: torch.cat([v[:, :5], -v[:, 5:6], v[:, 6:]], 1)}
        run = model.run(tensors, capture="projector", edit=edit)
        assert (run.acts["projector"] != plain.acts["projector"]).any(-1).all()

    def test_rows(self, model):
        rows = model.run(self.tensors()).rows
        assert rows["text"][2, 4, [TYPE, IMAGE, Y, X]].tolist() == [TOKEN_CODES["image"], 0, -1, -1]
        assert rows["vision"][0, :2, [TYPE, Y, X]].tolist() == [
            [TOKEN_CODES["cls"], -1, -1],
            [TOKEN_CODES["patch"], 0, 0],
        ]


PICTURES = [Image.new("RGB", (20, 14), (200, 10, 40)), Image.new("RGB", (9, 30), (0, 90, 10))]


@pytest.fixture(scope="module")
def fed():
    torch.manual_seed(0)
    processor = BlipImageProcessorPil(size={"height": 16, "width": 16})
    module = shake(Blip2ForConditionalGeneration(config(108, vocab_size=112)))
    return load_model(module, processor=processor, tokenizer=tokenizer("<image>"))


def test_pictures_and_questions(fed):
    inputs = fed.prepare({"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    assert inputs.tensors["input_ids"].tolist() == [
        [108] * QUERIES + [1, 5, 6, 7],
        [108] * QUERIES + [1, 8, 0, 0],
    ]
    report = check(fed, {"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    assert report.ok, str(report)
    assert len(fed.generate({"image": PICTURES, "text": ["w1 w2 w3", "w4"]}, max_new_tokens=3).texts) == 2


def test_inputs_are_those_of_transformers_processor(fed):
    theirs = Blip2Processor(fed.feeds.pictures.processor, tokenizer("<image>"), num_query_tokens=QUERIES)
    for picture, text in zip(PICTURES, ["w1 w2 w3", "w4"], strict=True):
        made = theirs(images=picture, text=text, return_tensors="pt")
        ours = fed.prepare({"image": picture, "text": text}).tensors
        for name in ("input_ids", "attention_mask", "pixel_values"):
            assert torch.equal(made[name], ours[name]), name


def test_other_language_models_are_refused():
    module = Blip2ForConditionalGeneration(config())
    module.config.text_config.model_type = "t5"
    with pytest.raises(ModelError, match="OPT"):
        load_model(module)
