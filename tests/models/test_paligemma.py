from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, linear, rms_norm, run_reference, shake
from .multimodal_ import (
    SIGLIP,
    SIZES,
    SOFT,
    PlacementTests,
    gemma_reference,
    pictures,
    prompts,
    siglip_reference,
    tokenizer,
)


def config(image: int = SOFT, **text) -> PaliGemmaConfig:
    return PaliGemmaConfig(
        text_config={"model_type": "gemma", "head_dim": 10, **SIZES, **text},
        vision_config={**SIGLIP, "projection_dim": 32},
        image_token_index=image,
        projection_dim=32,
        hidden_size=32,
    )


class TestPaliGemma(PlacementTests, AdapterTests):
    def make(self):
        return PaliGemmaForConditionalGeneration(config())

    def tensors(self):
        pixels = torch.stack(pictures(*[(16, 16)] * 3))
        return {**prompts([16] * 3, 23), "pixel_values": pixels}

    def soft(self, module, tensors):
        reference = siglip_reference(module.model.vision_tower, tensors["pixel_values"])
        states = run_reference(reference, torch.ones(3, 16, dtype=torch.bool))["vision.ln_final"]
        return linear(module.model.multi_modal_projector.linear)(states)

    def references(self, module, tensors):
        with torch.no_grad():
            soft = self.soft(module, tensors)
        everything = torch.ones(3, 23, 23, dtype=torch.bool)  # a prompt is read in both directions
        return [
            siglip_reference(module.model.vision_tower, tensors["pixel_values"]),
            gemma_reference(
                module.model.language_model,
                tensors["input_ids"],
                soft,
                heads=lambda b: {},
                norms=lambda b: {"norm2": rms_norm(b.post_attention_layernorm, plus=1.0)},
                also=everything,
            ),
        ]

    def others(self, module, tensors):
        return {"projector": self.soft(module, tensors)}

    def states(self, module, tower, tensors, towers):
        if tower.name == "text":
            types = torch.zeros_like(tensors["input_ids"])
            return module(**tensors, token_type_ids=types, output_hidden_states=True).hidden_states
        return module.model.vision_tower(tensors["pixel_values"], output_hidden_states=True).hidden_states


def test_paligemma_2_checks_out():
    torch.manual_seed(0)
    model = load_model(
        shake(PaliGemmaForConditionalGeneration(config(model_type="gemma2", sliding_window=8)))
    )
    report = check(model)
    assert report.ok, str(report)


@pytest.fixture(scope="module")
def fed():
    torch.manual_seed(0)
    words = tokenizer("<image>", "\n")
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16}, image_seq_length=16)
    processor.image_seq_length = 16
    module = shake(PaliGemmaForConditionalGeneration(config(108, vocab_size=112)))
    return load_model(module, processor=processor, tokenizer=words)


PICTURES = [Image.new("RGB", (20, 14), (200, 10, 40)), Image.new("RGB", (9, 30), (0, 90, 10))]


def test_pictures_and_questions(fed):
    inputs = fed.prepare({"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    # 16 soft tokens, <s>, the words (w0 is 4), the newline.
    assert inputs.tensors["input_ids"].tolist() == [
        [108] * 16 + [1, 5, 6, 7, 109],
        [108] * 16 + [1, 8, 109, 0, 0],
    ]
    assert inputs.tensors["token_type_ids"].eq(0).all()
    assert inputs.rows["text"][1, 18:, 4].tolist() == [4, 7, 7]
    report = check(fed, {"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    assert report.ok, str(report)


def test_inputs_are_those_of_transformers_processor(fed):
    words = tokenizer("<image>", "\n")
    theirs = PaliGemmaProcessor(fed.feeds.pictures.processor, words)
    for picture, text in zip(PICTURES, ["w1 w2 w3", "w4"], strict=True):
        made = theirs(images=picture, text=f"<image>{text}", return_tensors="pt")
        ours = fed.prepare({"image": picture, "text": text}).tensors
        for name in ("input_ids", "attention_mask", "pixel_values", "token_type_ids"):
            assert torch.equal(made[name], ours[name]), name
