"""Harvests of pictures whose grids differ (Qwen2.5-VL): stored rows are those of a run, with their places."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import mmxai
from mmxai.data import Sample
from mmxai.harvesting import harvest
from mmxai.models import load_model
from mmxai.models.geometry import cell_box
from mmxai.store.verify import verify
from tests.models.contract import shake
from tests.models.multimodal_ import tokenizer
from tests.models.test_qwen_vl import TEMPLATE, qwen25

SITES = ["vision.1.resid_post", "projector", "text.1.resid_post"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = qwen25({"vocab_size": 112}, image=108, begin=109, end=110)
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", template="none")
    words.chat_template = TEMPLATE
    limits = {"shortest_edge": 256, "longest_edge": 1024}
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=limits)
    return load_model(shake(Qwen2_5_VLForConditionalGeneration(config)), processor=processor, tokenizer=words)


def samples() -> list[Sample]:
    torch.manual_seed(4)
    out = []
    for i in range(6):
        noise = torch.randint(0, 256, (14 + 4 * i, 33 - 3 * i, 3), dtype=torch.uint8).numpy()
        out.append(Sample(str(i), image=Image.fromarray(noise), text=f"w1 w{i}"))
    return out


def test_stored_rows_are_those_of_a_run(model, tmp_path):
    path = tmp_path / "store"
    harvest(model, samples(), sites=SITES, store=path, batch_size=3, store_dtype="float32", progress=False)
    assert not verify(path).problems
    store = mmxai.open_store(path)
    lines = (path / "mmxai/samples/0.jsonl").read_text().splitlines()
    records = {r["sample"]: r for r in map(json.loads, lines)}
    for i, sample in enumerate(samples()):
        for site in SITES:
            _, batch = model.capture([sample], site)
            rows = store.rows[model.space_of(site)].read()
            mine = rows.sample == i
            stored = store[site][:][mine]
            torch.testing.assert_close(stored, batch[site], rtol=1e-4, atol=1e-4)
            for column in ("position", "y", "x", "token_type", "token_id", "image"):
                assert torch.equal(getattr(rows, column)[mine], getattr(batch.rows, column)), column
        patches, merged = records[i]["tiles"]
        width, height = sample.image.size
        for tile in (patches, merged):
            down, across = tile["grid"]
            assert cell_box(tile, down - 1, across - 1)[2:] == pytest.approx((width, height))
