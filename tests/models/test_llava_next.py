from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
)

from mmxai.errors import ModelError
from mmxai.models import load_model
from mmxai.models.check import check
from mmxai.models.geometry import apply, invert
from mmxai.types import TOKEN_CODES

from .contract import AdapterTests, run_reference, shake
from .llava_ import (
    IMAGE,
    clip_config,
    clip_reference,
    llama_config,
    llama_reference,
    projected,
    siglip_config,
    siglip_reference,
)

PINPOINTS = [[16, 32], [32, 16], [32, 32], [16, 16], [48, 48]]
SIZES = ((20, 31), (16, 16), (14, 30))  # height, width of the originals
TILES, GRIDS = (5, 2, 3), ((32, 32), (16, 16), (16, 32))  # of the whole and its crops; what crops fill


def next_config() -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=clip_config(num_hidden_layers=3),
        text_config=llama_config(max_position_embeddings=192),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )


def onevision_config() -> LlavaOnevisionConfig:
    text = llama_config(max_position_embeddings=192).to_dict()
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    given = {k: text[k] for k in (*keys, "num_key_value_heads", "max_position_embeddings")}
    return LlavaOnevisionConfig(
        vision_config=siglip_config(),
        text_config=Qwen2Config(**given),
        image_token_index=IMAGE,
        video_token_index=62,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
    )


def tensors(counts: tuple[int, ...], sizes=SIZES, tiles=TILES) -> dict[str, torch.Tensor]:
    """Texts with `counts` placeholders each, and pictures padded to the most tiles."""
    torch.manual_seed(2)
    ids = torch.randint(3, 60, (len(counts), max(counts) + 5))
    mask = torch.zeros_like(ids)
    for b, n in enumerate(counts):
        ids[b, 2 + b : 2 + b + n] = IMAGE
        mask[b, : n + 5] = 1
    ids[mask == 0] = 0
    pixels = torch.zeros(len(counts), max(tiles), 3, 16, 16)
    for b, n in enumerate(tiles):
        pixels[b, :n] = torch.randn(n, 3, 16, 16)
    sizes = torch.tensor(sizes)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": sizes}


def tiled(given: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([p[:n] for p, n in zip(given["pixel_values"], TILES, strict=True)])


def packed(features: torch.Tensor, newline: torch.Tensor, most: int | None) -> torch.Tensor:
    """The pictures' soft tokens `[n, D]` from each tile's `[tiles, 16, D]`, written with pixels in mind: a
    row or column of cells goes where the original, scaled into the crops, leaves it wholly to padding, the
    same number on both sides."""
    out = []
    for one, (h, w), (rows, columns) in zip(features.split(TILES), SIZES, GRIDS, strict=True):
        large = torch.empty(rows // 4, columns // 4, one.shape[-1])
        for t, crop in enumerate(one[1:]):
            y, x = 4 * (t // (columns // 16)), 4 * (t % (columns // 16))
            large[y : y + 4, x : x + 4] = crop.view(4, 4, -1)
        scale = min(rows / h, columns / w)
        cut_y, cut_x = int((rows - h * scale) / 2 / 4 + 1e-6), int((columns - w * scale) / 2 / 4 + 1e-6)
        large = large[cut_y : len(large) - cut_y, cut_x : large.shape[1] - cut_x]
        ratio = (large.shape[0] * large.shape[1] / (most * 16)) ** 0.5 if most else 0
        if ratio > 1.1:
            size = [int(large.shape[0] // ratio), int(large.shape[1] // ratio)]
            large = F.interpolate(large.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
        lines = [torch.cat([line, newline[None]]) for line in large]
        out.append(torch.cat([one[0], *lines]))
    return torch.cat(out)


class Tiled(AdapterTests):
    counts: tuple[int, ...]
    most: int | None = None

    def tensors(self):
        return tensors(self.counts)

    def vision(self, module, given):
        """Reference of the tower, and the states that the projector reads."""
        raise NotImplementedError

    def references(self, module, given):
        reference, states = self.vision(module, given)
        with torch.no_grad():
            soft = packed(projected(module.model, states), module.model.image_newline, self.most)
        return [reference, llama_reference(module.model.language_model, given["input_ids"], soft)]

    def others(self, module, given):
        soft = projected(module.model, self.vision(module, given)[1])
        return {"projector": self.arranged("vision.projector", soft, given)}

    def states(self, module, tower, given, towers):
        if tower.name == "text":
            return module(**given, output_hidden_states=True).hidden_states
        out = module.model.vision_tower(tiled(given), output_hidden_states=True).hidden_states
        return [self.arranged("vision", x, given) for x in out]

    def arranged(self, site, value, given):
        if not site.startswith("vision"):
            return value
        return pad_sequence([x.flatten(0, 1) for x in value.split(TILES)], batch_first=True)

    def test_a_cell_arrives_at_the_row_that_says_so(self, model):
        """Independent of any layout: each projected cell is marked in turn, and looked for in the text."""
        given = self.tensors()
        plain = model.run(given, capture=["text.0.resid_pre", "projector"])
        cells, rows = plain.rows["projector"], plain.rows["text"]
        claimed = set()
        for j in range(0, cells.shape[1], 3):

            def mark(value, j=j):
                value = value.clone()
                value[:, j] += 9.0
                return value

            run = model.run(given, capture="text.0.resid_pre", edit={"projector": mark})
            moved = (run.acts["text.0.resid_pre"] - plain.acts["text.0.resid_pre"]).abs().amax(-1) > 0.1
            for b in range(3):
                found = rows[b][moved[b]]
                cell = cells[b, j]
                if cell[4] == TOKEN_CODES["pad"]:
                    assert not len(found)
                    continue
                self.compare(model, b, cell, found, rows[b])
                claimed |= {(b, *r) for r in found[:, [6, 2, 3]].tolist()}
        assert len(claimed) > 30

    def compare(self, model, sample, cell, found, rows):
        same = (rows[:, [2, 3, 6]] == cell[[2, 3, 6]]).all(1) & (rows[:, 4] == TOKEN_CODES["image"])
        assert found.tolist() == rows[same].tolist()  # one row, or none where the cell is left out

    def test_newlines_are_no_cells(self, model, module):
        given = self.tensors()
        plain = model.run(given, capture="text.0.resid_pre")
        with torch.no_grad():
            module.model.image_newline += 1
        moved = (
            model.run(given, capture="text.0.resid_pre").acts["text.0.resid_pre"]
            != plain.acts["text.0.resid_pre"]
        ).any(-1)
        rows = plain.rows["text"]
        newline = (rows[..., 4] == TOKEN_CODES["image"]) & (rows[..., 3] == -1)
        assert torch.equal(moved, newline) and (rows[newline][:, 2] >= 0).all()

    def test_generated_texts_are_those_of_whole_forwards(self, model):
        inputs = model.prepare(self.tensors())
        got = model.generate(inputs, max_new_tokens=3, eos_token_id=-1).ids
        for b in (0, 2):
            one = inputs.take([b]).tensors
            ids = one["input_ids"][:, : int(one["attention_mask"].sum())]
            for token in got[b].tolist():
                rest = {k: one[k] for k in ("pixel_values", "image_sizes")}
                with torch.no_grad():
                    logits = model.module(input_ids=ids, **rest).logits[0, -1]
                logits[IMAGE] = -torch.inf
                assert token == int(logits.argmax())
                ids = torch.cat([ids, torch.tensor([[token]])], 1)


class TestLlavaNext(Tiled):
    counts = (16 + 6 * 9, 16 + 4 * 5, 16 + 4 * 9)

    def make(self):
        return LlavaNextForConditionalGeneration(next_config())

    def vision(self, module, given):
        reference = clip_reference(module.model.vision_tower, tiled(given))
        keys = torch.ones(sum(TILES), 17, dtype=torch.bool)
        with torch.no_grad():
            return reference, run_reference(reference, keys)["vision.2.resid_pre"][:, 1:]


class TestLlavaOnevision(Tiled):
    counts = (16 + 4 * 7, 16 + 4 * 5, 16 + 4 * 9)
    most = 2

    def make(self):
        return LlavaOnevisionForConditionalGeneration(onevision_config())

    def vision(self, module, given):
        reference = siglip_reference(module.model.vision_tower, tiled(given))
        keys = torch.ones(sum(TILES), 16, dtype=torch.bool)
        with torch.no_grad():
            return reference, run_reference(reference, keys)["vision.2.resid_post"]

    def compare(self, model, sample, cell, found, rows):
        """Of a picture whose grid is shrunk the cells of the crops are mixed: with those that lie near."""
        if sample or cell[6] == 0:
            return super().compare(model, sample, cell, found, rows)
        from mmxai.models.families.llava_next import tiles_of

        height, width = SIZES[sample]
        tiles = tiles_of(model.config, width, height)
        assert (found[:, 6] == 5).all() and len(tiles) == 6
        centre = apply(invert(tiles[int(cell[6])]["affine"]), [int(cell[3]) + 0.5, int(cell[2]) + 0.5])
        x, y = apply(tiles[5]["affine"], centre)
        for _, _, row, column in found[:, :4].tolist():
            assert abs(row + 0.5 - y) <= 1.5 and abs(column + 0.5 - x) <= 1.5
        return None


@pytest.mark.parametrize("make", [next_config, onevision_config])
def test_check_passes(make):
    kind = {next_config: LlavaNextForConditionalGeneration}.get(make, LlavaOnevisionForConditionalGeneration)
    torch.manual_seed(0)
    report = check(load_model(shake(kind(make()))))
    assert report.ok, str(report)


def test_pictures_need_their_sizes():
    model = load_model(LlavaNextForConditionalGeneration(next_config()))
    with pytest.raises(ModelError, match="image_sizes"):
        model.run({"pixel_values": torch.zeros(1, 2, 3, 16, 16)})
