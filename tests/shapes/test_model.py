"""The world's CLIP loads with plain transformers, and its tokenizer knows every word."""

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from mmxai.shapes import ShapesWorld
from mmxai.shapes.model import CONTEXT, EOS, random_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_clip(tmp_path_factory.mktemp("models") / "clip")


def test_it_loads_whole_and_runs(folder):
    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 4e6
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    items = ShapesWorld(4)[:]
    words = tokenizer([i.caption for i in items], padding=True, return_tensors="pt")
    pixels = processor([i.pil for i in items], return_tensors="pt")
    with torch.no_grad():
        assert model(**words, **pixels).logits_per_image.shape == (4, 4)
        text = model.text_model(**words)
        alone = model.text_model(**tokenizer(items[2].caption, return_tensors="pt"))
    ends = (words["input_ids"] == tokenizer.convert_tokens_to_ids(EOS)).int().argmax(1)
    assert torch.equal(text.pooler_output, text.last_hidden_state[torch.arange(4), ends])
    torch.testing.assert_close(alone.pooler_output[0], text.pooler_output[2], atol=1e-5, rtol=1e-5)


def test_the_picture_is_not_resized(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    image = ShapesWorld(1)[0].pil
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    restored = (pixels * std + mean) * 255
    expected = torch.from_numpy(ShapesWorld(1)[0].image.copy()).permute(2, 0, 1).float()
    torch.testing.assert_close(restored, expected, atol=1e-2, rtol=0)


def test_every_caption_and_question_fits_and_has_no_unknown_word(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = ShapesWorld(1000, seed=8).batch(range(1000), texts=6)
    texts = [c.text for written in batch.captions for c in written]
    texts += [q.text for item in ShapesWorld(100, seed=8) for q in item.questions]
    ids = tokenizer(texts)["input_ids"]
    assert max(map(len, ids)) <= CONTEXT
    assert all(tokenizer.unk_token_id not in line for line in ids)
    assert all(line[0] == tokenizer.bos_token_id and line[-1] == tokenizer.eos_token_id for line in ids)


def test_the_seed_decides_the_weights(tmp_path, folder):
    same, other = random_clip(tmp_path / "a"), random_clip(tmp_path / "b", seed=1)
    weights = [(f / "model.safetensors").read_bytes() for f in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]
