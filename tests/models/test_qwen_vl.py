from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, UnknownSiteError
from mmxai.models import load_model
from mmxai.models.check import check
from mmxai.models.geometry import cell_box
from mmxai.types import TOKEN_CODES

from .contract import AdapterTests, Block, Reference, layer_norm, linear, rms_norm, run_reference, shake
from .multimodal_ import (
    BEGIN,
    END,
    SIZES,
    SOFT,
    TYPE,
    PlacementTests,
    X,
    Y,
    pictures,
    prompts,
    tokenizer,
)

GRIDS = [(4, 4), (4, 8), (6, 4)]
"""Patches of three pictures, (height, width); a soft token stands for 2 x 2 of them."""
THETA, SECTIONS = 10_000.0, [1, 1, 2]


def language(**changes) -> dict:
    rope = {"rope_type": "default", "mrope_section": SECTIONS, "rope_theta": THETA}
    return {"rope_parameters": rope, **SIZES, **changes}


def ids(image: int = SOFT, begin: int = BEGIN, end: int = END) -> dict[str, int]:
    return {
        "image_token_id": image,
        "video_token_id": 57,
        "vision_start_token_id": begin,
        "vision_end_token_id": end,
    }


VISION = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}


def qwen2(text: dict | None = None, **tokens: int) -> Qwen2VLConfig:
    vision = {**VISION, "depth": 2, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    return Qwen2VLConfig(vision_config=vision, text_config=language(**(text or {})), **ids(**tokens))


def qwen25(text: dict | None = None, **tokens: int) -> Qwen2_5_VLConfig:
    vision = {**VISION, "depth": 3, "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 36}
    # Windows of 2 x 2 merged cells in blocks 0 and 2.
    vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=language(**(text or {})), **ids(**tokens))


def patchify(picture: torch.Tensor) -> torch.Tensor:
    """As transformers' own processor lays a picture out: `[patches, values]`."""
    flat, _, _ = Qwen2VLImageProcessorPil().patchify(picture.numpy(), 4, 2, 2)
    return torch.from_numpy(np.ascontiguousarray(flat))


def rotated(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """x `[B, H, T, d]` turned by angles `[B, T, d / 2]`, first half against second half."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class TestQwen2VL(PlacementTests, AdapterTests):
    windows = False
    read = "vision.1.resid_post"
    cells = ((0, 0, 0), (1, 2, 5), (2, 5, 1))

    def make(self):
        return Qwen2VLForConditionalGeneration(qwen2())

    def pictures(self):
        return pictures(*[(4 * h, 4 * w) for h, w in GRIDS])

    def inputs(self, shown):
        return {
            **prompts([4, 8, 6], 14, BEGIN),
            "pixel_values": torch.cat([patchify(p) for p in shown]),
            "image_grid_thw": torch.tensor([[1, h, w] for h, w in GRIDS]),
        }

    def tensors(self):
        return self.inputs(self.pictures())

    def painted(self, b, y, x):
        shown = self.pictures()
        shown[b][:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 1.0
        return self.inputs(shown)

    def token(self, y, x):
        return 1, y // 2, x // 2

    # The order in which patches pass, written out: windows of 2 x 2 merged cells, cells of 2 x 2 patches.

    def merged(self, h: int, w: int) -> list[tuple[int, int]]:
        places = [(i, j) for i in range(h // 2) for j in range(w // 2)]
        return sorted(places, key=lambda p: (p[0] // 2, p[1] // 2, *p)) if self.windows else places

    def order(self, h: int, w: int) -> list[tuple[int, int]]:
        return [(2 * i + a, 2 * j + b) for i, j in self.merged(h, w) for a in (0, 1) for b in (0, 1)]

    def padded(self, parts) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def window(self, whole: bool) -> torch.Tensor:
        """bool `[B, R, R]`: patches of one window (of one picture)."""
        names = [
            torch.tensor([0 if whole else 100 * (y // 4) + x // 4 for y, x in self.order(h, w)])
            for h, w in GRIDS
        ]
        names = torch.nn.utils.rnn.pad_sequence(names, batch_first=True, padding_value=-1)
        return (names[:, :, None] == names[:, None, :]) & (names >= 0)[:, None, :]

    def block(self, b):
        return {
            "up": linear(b.mlp.fc1),
            "down": linear(b.mlp.fc2),
            "act": lambda x: x * torch.sigmoid(1.702 * x),
            "norm1": layer_norm(b.norm1),
            "norm2": layer_norm(b.norm2),
        }

    def vision(self, visual, tensors) -> Reference:
        places = self.padded([torch.tensor(self.order(h, w)) for h, w in GRIDS])  # [B, R, 2]
        frequency = THETA ** (-torch.arange(0, 6, 2) / 6)
        angle = (places[..., None] * frequency).flatten(-2)

        def part(b, i):
            fused = linear(b.attn.qkv)
            return lambda x: fused(x)[..., 24 * i : 24 * (i + 1)]

        def start():
            parts = []
            for picture, (h, w) in zip(self.pictures(), GRIDS, strict=True):
                cut = [picture[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] for y, x in self.order(h, w)]
                twice = torch.stack(cut)[:, :, None].expand(-1, -1, 2, -1, -1)
                parts.append(F.linear(twice.flatten(1), visual.patch_embed.proj.weight.flatten(1)))
            return (self.padded(parts),) * 2

        blocks = [
            Block(
                heads=2,
                q=part(b, 0),
                k=part(b, 1),
                v=part(b, 2),
                o=linear(b.attn.proj),
                turn=lambda x: rotated(x, angle),
                only=self.window(whole=not self.windows or i == 1),
                **self.block(b),
            )
            for i, b in enumerate(visual.blocks)
        ]
        return Reference("vision", start, blocks, causal=False, patterns=False)

    def run_vision(self, module, tensors):
        reference = self.vision(module.model.visual, tensors)
        return run_reference(reference, torch.ones(3, 32, dtype=torch.bool))

    def norm(self, visual):
        return layer_norm(visual.merger.ln_q)

    def soft(self, module, tensors):
        """The merger's output in its own order: one tensor a picture."""
        visual = module.model.visual
        states = self.run_vision(module, tensors)[self.read]
        made = []
        for b, (h, w) in enumerate(GRIDS):
            x = self.norm(visual)(states[b, : h * w]).unflatten(0, (-1, 4)).flatten(1)
            made.append(linear(visual.merger.mlp[2])(F.gelu(linear(visual.merger.mlp[0])(x))))
        return made

    def references(self, module, tensors):
        with torch.no_grad():
            made = self.soft(module, tensors)
        in_order = []
        for soft, (h, w) in zip(made, GRIDS, strict=True):
            at = self.merged(h, w)
            in_order += [soft[at.index((i, j))] for i in range(h // 2) for j in range(w // 2)]
        return [
            self.vision(module.model.visual, tensors),
            self.text_reference(module.model.language_model, tensors, torch.stack(in_order)),
        ]

    def text_reference(self, inner, tensors, soft):
        tokens = tensors["input_ids"]
        places = torch.zeros(3, *tokens.shape)  # time, height, width
        for b, (h, w) in enumerate(GRIDS):
            now, cell = 0, 0
            for t, token in enumerate(tokens[b].tolist()):
                if token == SOFT:
                    i, j = divmod(cell, w // 2)
                    places[:, b, t] = torch.tensor([now, now + i, now + j])
                    cell += 1
                    if cell == h * w // 4:
                        now += max(h, w) // 2
                else:
                    places[:, b, t] = now
                    now += 1
        frequency = THETA ** (-torch.arange(0, 8, 2) / 8)
        which = torch.tensor([0, 1, 2, 2])  # SECTIONS: which of time, height, width turns a frequency
        angle = places[which].permute(1, 2, 0) * frequency
        blocks = [
            Block(
                heads=4,
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
                turn=lambda x: rotated(x, angle),
            )
            for b in inner.layers
        ]

        def start():
            embed = inner.embed_tokens.weight[tokens]
            x = embed.clone()
            x[tokens == SOFT] = soft
            return embed, x

        return Reference("text", start, blocks, lambda x: {"ln_final": rms_norm(inner.norm)(x)})

    def others(self, module, tensors):
        return {"projector": self.padded(self.soft(module, tensors))}

    def states(self, module, tower, tensors, towers):
        if tower.name == "text":
            kinds = (tensors["input_ids"] == SOFT).int()
            return module(**tensors, mm_token_type_ids=kinds, output_hidden_states=True).hidden_states
        out = module.model.visual(
            tensors["pixel_values"], grid_thw=tensors["image_grid_thw"], output_hidden_states=True
        )
        return [self.padded(x.split([h * w for h, w in GRIDS])) for x in out.hidden_states]

    def test_pattern_leaves_the_attention_implementation_as_it_was(self, model, module):
        before = {m.config._attn_implementation for m in module.modules() if hasattr(m, "config")}
        with pytest.raises(ZeroDivisionError):
            model.run(self.tensors(), read={"text.1.pattern": lambda x: 1 / 0})
        assert {m.config._attn_implementation for m in module.modules() if hasattr(m, "config")} == before
        with pytest.raises(UnknownSiteError):  # attention runs once a window
            model.resolve("vision.1.pattern")

    def test_rows_of_patches_are_in_the_order_in_which_they_pass(self, model):
        rows = model.run(self.tensors()).rows["vision"]
        assert (rows[..., TYPE] != TOKEN_CODES["pad"]).sum(1).tolist() == [16, 32, 24]
        for b, (h, w) in enumerate(GRIDS):
            assert rows[b, : h * w, [Y, X]].tolist() == [list(p) for p in self.order(h, w)]

    def test_positions_are_the_same_whether_we_or_the_caller_say_what_is_a_picture(self, model, module):
        tensors = self.tensors()
        kinds = (tensors["input_ids"] == SOFT).int()
        with torch.no_grad():
            theirs = module(**tensors, mm_token_type_ids=kinds).logits
        torch.testing.assert_close(model.run(tensors).out.logits, theirs)

    def test_videos_are_refused(self, model):
        with pytest.raises(ArgumentError, match="videos"):
            model.run({"input_ids": torch.full((1, 4), 57), "pixel_values_videos": torch.zeros(4, 96)})

    def test_grids_are_needed(self, model):
        tensors = self.tensors()
        del tensors["image_grid_thw"]
        with pytest.raises(ArgumentError, match="image_grid_thw"):
            model.run(tensors)


class TestQwen25VL(TestQwen2VL):
    windows = True
    read = "vision.2.resid_post"

    def make(self):
        return Qwen2_5_VLForConditionalGeneration(qwen25())

    def block(self, b):
        return {
            "up": linear(b.mlp.gate_proj),
            "gated": linear(b.mlp.up_proj),
            "down": linear(b.mlp.down_proj),
            "act": F.silu,
            "norm1": rms_norm(b.norm1),
            "norm2": rms_norm(b.norm2),
        }

    def norm(self, visual):
        return rms_norm(visual.merger.ln_q)

    def test_windows_change_the_order(self, model):
        rows = model.run(self.tensors()).rows
        merged = rows["projector"][1, :, [Y, X]].tolist()
        assert merged == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
        text = rows["text"][1]
        text = text[text[:, TYPE] == TOKEN_CODES["image"]][:, [Y, X]].tolist()
        assert text == sorted(merged)


PICTURES = [Image.new("RGB", (33, 14), (200, 10, 40)), Image.new("RGB", (17, 30), (0, 90, 10))]
TEMPLATE = (
    "{% for m in messages %}w90 {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %} w91"
    "{% endfor %}"
)
EXPANDED = json.loads("""
{"33x14": {"grid": [1, 4, 8],
           "ids": [94, 109, 108, 108, 108, 108, 108, 108, 108, 108, 110, 5, 6, 95]},
 "17x30": {"grid": [1, 8, 4],
           "ids": [94, 109, 108, 108, 108, 108, 108, 108, 108, 108, 110, 5, 6, 95]},
 "8x8": {"grid": [1, 4, 4],
         "ids": [94, 109, 108, 108, 108, 108, 110, 5, 6, 95]}}
""")
"""By hand: sides of pictures are made multiples of 8 (14 -> 16, 33 -> 32, 17 -> 16, 30 -> 32), a picture at
least 256 pixels; 4 pixels a patch, 2 x 2 patches a token; words w0, w1, ... are 4, 5, ..."""


@pytest.fixture(scope="module", params=[Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration])
def fed(request):
    torch.manual_seed(0)
    tokens = {"image": 108, "begin": 109, "end": 110}
    make = qwen2 if request.param is Qwen2VLForConditionalGeneration else qwen25
    module = shake(request.param(make({"vocab_size": 112}, **tokens)))
    words = tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", template="none")
    words.chat_template = TEMPLATE
    limits = {"shortest_edge": 256, "longest_edge": 1024}
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=limits)
    return load_model(module, processor=processor, tokenizer=words)


@pytest.mark.parametrize("size", EXPANDED)
def test_prompts_are_expanded_as_stored(fed, size):
    width, height = (int(n) for n in size.split("x"))
    picture = Image.new("RGB", (width, height), (10, 200, 30))
    tensors = fed.prepare({"image": picture, "text": "w1 w2"}).tensors
    assert tensors["input_ids"].tolist() == [EXPANDED[size]["ids"]]
    assert tensors["image_grid_thw"].tolist() == [EXPANDED[size]["grid"]]
    assert tensors["pixel_values"].shape == (np.prod(EXPANDED[size]["grid"]), 96)
    shown = [int(i == 108) for i in EXPANDED[size]["ids"]]
    assert tensors["mm_token_type_ids"].tolist() == [shown]


def test_pictures_of_several_sizes_and_questions(fed):
    asked = {"image": PICTURES, "text": ["w1 w2 w3", "w4"]}
    report = check(fed, asked)
    assert report.ok, str(report)
    assert len(fed.generate(asked, max_new_tokens=3).texts) == 2
    made = fed.feeds.pictures.processor(images=PICTURES, return_tensors="pt")
    tensors = fed.prepare(asked).tensors
    assert torch.equal(made["pixel_values"], tensors["pixel_values"])
    assert torch.equal(made["image_grid_thw"], tensors["image_grid_thw"])


def test_a_store_plans_for_the_largest_picture_of_the_processor(fed):
    assert fed.rows_per_sample("vision") == 64 and fed.rows_per_sample("projector") == 16  # of 1,024 pixels
    bare = load_model(fed.module)
    assert bare.rows_per_sample("vision") == 4 * 16384


def test_tiles_say_where_patches_and_tokens_are(fed):
    encoded = fed.feeds.encode(Sample("0", image=PICTURES[0], text="w1"), None)
    patches, merged = encoded.tiles
    assert patches["grid"] == [4, 8] and merged["grid"] == [2, 4]
    assert cell_box(patches, 1, 2) == pytest.approx((2 * 33 / 8, 3.5, 3 * 33 / 8, 7))
    assert cell_box(merged, 1, 1) == pytest.approx((33 / 4, 7, 33 / 2, 14))
    assert encoded.placement == [[2, 8]] and "<|image_pad|>" in encoded.prompt
