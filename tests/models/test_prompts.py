"""Prompts and pictures against transformers' own processors, and against stored expansions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaProcessor,
    SiglipVisionConfig,
)

from mmxai.data import Sample
from mmxai.errors import DataError, ModelError
from mmxai.models import load_model
from mmxai.models.families import llava_next
from mmxai.models.geometry import apply

from .llava_ import clip_config, llama_config, siglip_config
from .test_llava_next import PINPOINTS
from .tokenizers_ import image_tokenizer

STORED = json.loads((Path(__file__).parent / "expansions.json").read_text())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}w1 {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %} w2{% endfor %}"
    "{% if add_generation_prompt %} w3{% endif %}"
)
TEXT = llama_config(vocab_size=128, max_position_embeddings=256)
SIDE = {"height": 16, "width": 16}
SIZES = [(16, 16), (31, 20), (20, 31), (47, 40), (100, 30), (9, 50)]  # width, height


def tokenizer():
    return image_tokenizer()


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def llava(processor, **options):
    image = tokenizer().convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=clip_config(), text_config=TEXT, image_token_id=image)
    return load_model(LlavaForConditionalGeneration(config), processor=processor, **options)


def anyres(kind: str, **options):
    image = tokenizer().convert_tokens_to_ids("<image>")
    given = {"text_config": TEXT, "image_token_index": image, "image_grid_pinpoints": PINPOINTS}
    if kind == "next":
        config = LlavaNextConfig(vision_config=clip_config(), **given)
        processor = LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size=SIDE, image_grid_pinpoints=PINPOINTS
        )
        return load_model(LlavaNextForConditionalGeneration(config), processor=processor, **options)
    config = LlavaOnevisionConfig(
        vision_config=siglip_config(), vision_aspect_ratio="anyres_max_2", video_token_index=1, **given
    )
    processor = LlavaOnevisionImageProcessorPil(size=SIDE, image_grid_pinpoints=PINPOINTS)
    return load_model(LlavaOnevisionForConditionalGeneration(config), processor=processor, **options)


def theirs(model, words):
    """transformers' processor around the same parts."""
    cls = LlavaNextProcessor if model.family == "llava_next" else LlavaProcessor
    return cls(
        model.feeds.pictures.processor,
        words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@pytest.mark.parametrize("kind", ["llava", "next"])
def test_as_transformers_processor_makes_it(kind):
    words = tokenizer()
    crop = LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIDE)
    model = llava(crop, tokenizer=words) if kind == "llava" else anyres("next", tokenizer=words)
    processor = theirs(model, words)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the cat w9"}]}]
    for size in SIZES:
        for text in ("w5 <image> the cat", "<image>\na b c"):
            want = processor(images=picture(*size), text=text, return_tensors="pt")
            got = model.prepare([{"image": picture(*size), "text": text}])
            assert got.tensors["input_ids"].tolist() == want["input_ids"].tolist()
            torch.testing.assert_close(got.tensors["pixel_values"], want["pixel_values"], rtol=0, atol=1e-6)
            assert model.run(got).out.logits.shape[1] == got.tensors["input_ids"].shape[1]
    chatty = load_model(model.module, processor=processor)
    want = processor(
        images=picture(31, 20),
        text=processor.apply_chat_template(chat, add_generation_prompt=True),
        add_special_tokens=False,  # the template has them
        return_tensors="pt",
    )
    got = chatty.prepare([{"image": picture(31, 20), "text": "the cat w9"}])
    assert got.tensors["input_ids"].tolist() == want["input_ids"].tolist()


def test_the_default_prompt_and_a_ready_one():
    model = llava(CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIDE), tokenizer=tokenizer())
    one = model.encode(Sample("k", image=picture(20, 16), text="the cat"))
    assert one.prompt == "USER: <image>\nthe cat ASSISTANT:" and one.placement == [[2, 16]]
    assert one.record()["prompt"] == one.prompt
    alone = model.encode(Sample("k", text="the cat"))
    assert alone.prompt is None and alone.tensors["input_ids"].tolist() == [
        1,
        *tokenizer()("the cat", add_special_tokens=False)["input_ids"],
    ]
    with pytest.raises(DataError, match="2 image tokens"):
        model.encode(Sample("k", image=picture(20, 16), text="<image> a <image>"))
    # A text can be cut to the context, a picture cannot: that way out is not offered.
    model.set_texts("text", context=20, long="truncate")
    with pytest.raises(DataError, match=r"k: got a prompt of \d+ tokens, 16 of them .* at most 20"):
        model.encode(Sample("k", image=picture(20, 16), text="the cat"))


def test_a_batch_of_questions_with_and_without_picture():
    model = llava(CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIDE), tokenizer=tokenizer())
    asked = {"image": picture(20, 16), "text": "the cat"}
    both = model.run([{"text": "a b c"}, asked], capture="text.1.resid_post")
    apart = [model.run([one], capture="text.1.resid_post") for one in ({"text": "a b c"}, asked)]
    for b, one in enumerate(apart):
        want = one.acts["text.1.resid_post"][0]
        torch.testing.assert_close(both.acts["text.1.resid_post"][b, : len(want)], want)


def test_a_tokenizer_that_does_not_know_the_placeholder():
    from .tokenizers_ import word_tokenizer

    with pytest.raises(ModelError, match="does not know token"):
        llava(LlavaImageProcessorPil(), tokenizer=word_tokenizer())


@pytest.mark.parametrize("kind", ["next", "onevision"])
def test_samples_of_different_tiles_in_one_batch(kind):
    model = anyres(kind, tokenizer=tokenizer())
    samples = [{"image": picture(*size), "text": "the cat"} for size in SIZES]
    whole = model.run(samples, capture=["text.1.resid_post", "vision.1.z"])
    for b, sample in enumerate(samples):
        one = model.run([sample], capture=["text.1.resid_post", "vision.1.z"])
        for site, want in one.acts.items():
            n = want.shape[1]
            torch.testing.assert_close(whole.acts[site][b, :n], want[0], rtol=1e-4, atol=1e-5)
            space = model.space_of(site)
            assert torch.equal(whole.rows[space][b, :n, 1:], one.rows[space][0, :, 1:])


CONFIGS = [
    (
        "llava_next",
        LlavaNextConfig(vision_config=clip_config(image_size=336, patch_size=14), text_config=TEXT),
    ),
    (
        "llava_onevision",
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(image_size=384, patch_size=14), text_config=TEXT
        ),
    ),
]


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_stored_expansions_of_published_checkpoints(name, config):
    """expansions.json is what the processors' formulas say, written by make_expansions.py."""
    assert len(STORED[name]) >= 8
    for one in STORED[name]:
        assert len(llava_next.layout(config, (one["height"], one["width"])).text) == one["soft"]


@pytest.mark.parametrize("kind", ["crop", "square", "next", "onevision"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_a_pixel_is_in_the_cell_that_the_tile_says(kind, size):
    """A white spot in a black picture is looked for among the patches of the model's input."""
    pad = {"do_pad": kind == "square", "size": SIDE if kind == "square" else {"shortest_edge": 16}}
    model = (
        anyres(kind)
        if kind in ("next", "onevision")
        else llava(LlavaImageProcessorPil(crop_size=SIDE, **pad))
    )
    width, height = size
    black = np.zeros((height, width, 3), dtype=np.uint8)
    base = model.prepare([Image.fromarray(black)]).tensors["pixel_values"].flatten(0, -4)
    radius = max(1, round(max(size) / 24))
    seen = 0
    for y, x in ((height // 3, width // 4), (height // 2, width // 2), (3 * height // 4, 2 * width // 3)):
        spot = black.copy()
        spot[y - radius : y + radius, x - radius : x + radius] = 255
        one = model.encode(Sample("k", image=Image.fromarray(spot)))
        moved = (model.collate([one]).tensors["pixel_values"].flatten(0, -4) - base).abs().sum(1)
        for tile, change in zip(one.tiles, moved, strict=False):  # of OneVision one tile more, without pixels
            if change.max() < 1:
                continue
            place = torch.arange(16) + 0.5
            centre = [(change.sum(d) * place).sum() / change.sum() / 4 for d in (0, 1)]  # in cells: x, y
            gx, gy = apply(tile["affine"], [x, y])
            inside = all(0.75 < g < 3.25 for g in (gx, gy))  # a spot at an edge is cut there
            if inside:
                seen += 1
                assert abs(float(centre[0]) - gx) < 0.2 and abs(float(centre[1]) - gy) < 0.2
    assert seen >= (1 if kind == "crop" else 2)  # of a long picture most is cropped away


def test_a_saved_folder_has_its_processor_and_template(tmp_path):
    words = tokenizer()
    model = anyres("next", tokenizer=words)
    model.module.save_pretrained(tmp_path)
    theirs(model, words).save_pretrained(tmp_path)
    asked = Sample("k", image=picture(31, 20), text="the cat")
    again = load_model(tmp_path).encode(asked)
    assert again.prompt == "<s>w1 <image> the cat w2 w3" and again.placement == [[2, 70]]
    # Older checkpoints keep the template in a file of its own.
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "w7 <image> w8"}))
    assert load_model(tmp_path).encode(asked).prompt == "w7 <image> w8"
