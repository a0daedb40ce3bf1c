from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from mmxai.errors import ModelError
from mmxai.models import load_model
from mmxai.models.check import check
from mmxai.models.geometry import cell_box
from mmxai.types import TOKEN_CODES

from .contract import AdapterTests, rms_norm, rope, run_reference, shake
from .multimodal_ import (
    BEGIN,
    END,
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
from .test_text import head_normed

LENGTH = 14


def config(soft: int = SOFT, begin: int = BEGIN, end: int = END, **text) -> Gemma3Config:
    return Gemma3Config(
        text_config={
            "head_dim": 10,
            "sliding_window": 5,
            "query_pre_attn_scalar": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            **SIZES,
            **text,
        },
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        image_token_index=soft,
        boi_token_index=begin,
        eoi_token_index=end,
    )


class TestGemma3(PlacementTests, AdapterTests):
    def make(self):
        module = Gemma3ForConditionalGeneration(config())
        module.model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # zeros at first
        return module

    def tensors(self):
        pixels = torch.stack(pictures(*[(16, 16)] * 3))
        return {**prompts([4] * 3, LENGTH, BEGIN), "pixel_values": pixels}

    def token(self, y, x):
        return 1, y // 2, x // 2

    def soft(self, module, tensors):
        reference = siglip_reference(module.model.vision_tower, tensors["pixel_values"])
        states = run_reference(reference, torch.ones(3, 16, dtype=torch.bool))["vision.ln_final"]
        squares = states.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)  # of 2 x 2 patches
        p = module.model.multi_modal_projector
        return rms_norm(p.mm_soft_emb_norm, plus=1.0)(squares) @ p.mm_input_projection_weight

    def references(self, module, tensors):
        with torch.no_grad():
            soft = self.soft(module, tensors)
        image = tensors["input_ids"] == SOFT

        def heads(b):
            a = b.self_attn
            norm = lambda m: rms_norm(m, plus=1.0)  # noqa: E731
            theta = 10_000.0 if a.is_sliding else 1_000_000.0
            return {
                "q": head_normed(a.q_proj, norm(a.q_norm), 10),
                "k": head_normed(a.k_proj, norm(a.k_norm), 10),
                "turn": lambda x: rope(x, theta),
                "scale": 7**-0.5,
                "window": 5 if a.is_sliding else None,
            }

        def norms(b):
            return {
                "norm2": rms_norm(b.pre_feedforward_layernorm, plus=1.0),
                "after_attn": rms_norm(b.post_attention_layernorm, plus=1.0),
                "after_mlp": rms_norm(b.post_feedforward_layernorm, plus=1.0),
            }

        return [
            siglip_reference(module.model.vision_tower, tensors["pixel_values"]),
            gemma_reference(
                module.model.language_model,
                tensors["input_ids"],
                soft,
                heads=heads,
                norms=norms,
                also=image[:, :, None] & image[:, None, :],
            ),
        ]

    def others(self, module, tensors):
        return {"projector": self.soft(module, tensors)}

    def states(self, module, tower, tensors, towers):
        if tower.name == "text":
            types = (tensors["input_ids"] == SOFT).long()
            return module(**tensors, token_type_ids=types, output_hidden_states=True).hidden_states
        return module.model.vision_tower(tensors["pixel_values"], output_hidden_states=True).hidden_states

    def test_begin_and_end_of_a_picture_are_special(self, model):
        rows = model.run(self.tensors()).rows["text"]
        assert rows[0, 1, 4] == TOKEN_CODES["special"] and rows[0, 2, 4] == TOKEN_CODES["image"]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}w90 {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<boi>{% else %}{{ c['text'] }}{% endif %}{% endfor %} w91{% endfor %}"
)
PICTURES = [Image.new("RGB", (20, 14), (200, 10, 40)), Image.new("RGB", (9, 30), (0, 90, 10))]


def words():
    names = {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return tokenizer("<soft>", "<boi>", "<eoi>", "\n\n", extra_special_tokens=names)


@pytest.fixture(scope="module")
def fed():
    torch.manual_seed(0)
    own = words()
    own.chat_template = TEMPLATE
    processor = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    module = shake(Gemma3ForConditionalGeneration(config(108, 109, 110, vocab_size=116)))
    return load_model(module, processor=processor, tokenizer=own)


def test_pictures_and_questions(fed):
    inputs = fed.prepare({"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    picture = [111, 109, 108, 108, 108, 108, 110, 111]
    assert inputs.tensors["input_ids"].tolist() == [
        [1, 94, *picture, 5, 6, 7, 95],
        [1, 94, *picture, 8, 95, 0, 0],
    ]
    assert inputs.tensors["token_type_ids"][0].tolist() == [0] * 4 + [1] * 4 + [0] * 6
    encoded = fed.feeds.encode(sample(PICTURES[0], "w1 w2 w3"), None)
    assert encoded.prompt == "<s>w90 <boi>w1 w2 w3 w91"
    assert encoded.placement == [[4, 4]]
    patches, tokens = encoded.tiles
    assert patches["grid"] == [4, 4] and tokens["grid"] == [2, 2]
    assert cell_box(tokens, 1, 0) == pytest.approx((0, 7, 10, 14))
    report = check(fed, {"image": PICTURES, "text": ["w1 w2 w3", "w4"]})
    assert report.ok, str(report)


def sample(picture, text):
    from mmxai.data.sample import Sample

    return Sample("0", image=picture, text=text)


def test_inputs_are_those_of_transformers_processor(fed):
    theirs = Gemma3Processor(fed.feeds.pictures.processor, words(), image_seq_length=4)
    for picture, text in zip(PICTURES, ["w1 w2 w3", "w4"], strict=True):
        made = theirs(
            images=picture, text=f"<s>w90 <boi>{text} w91", return_tensors="pt", add_special_tokens=False
        )
        ours = fed.prepare({"image": picture, "text": text}).tensors
        for name in ("input_ids", "attention_mask", "pixel_values", "token_type_ids"):
            assert torch.equal(made[name].float(), ours[name].float()), name


def test_pan_and_scan_is_refused():
    processor = Gemma3ImageProcessorPil(size={"height": 16, "width": 16}, do_pan_and_scan=True)
    with pytest.raises(ModelError, match="do_pan_and_scan"):
        load_model(Gemma3ForConditionalGeneration(config()), processor=processor)


def test_soft_tokens_read_each_other_in_both_directions(fed):
    inputs = fed.prepare({"image": PICTURES[0], "text": "w1 w2"})
    pattern = fed.run(inputs, capture="text.1.pattern").acts["text.1.pattern"]
    pattern = pattern.unflatten(-1, (4, -1))[0, :, 0]
    assert pattern[4, 7] > 0 and pattern[3, 4] == 0 and F.relu(pattern[4, 8]) == 0
