"""What tests of multimodal LLMs share: towers as functions of weights, and proofs of where pictures are."""

from __future__ import annotations

import torch
from tokenizers import AddedToken
from torch.nn import functional as F

from mmxai.models.unembedding import unembedding
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

from .contract import Block, Reference, layer_norm, linear, rms_norm, rope
from .test_siglip import blocks as siglip_blocks
from .tokenizers_ import word_tokenizer

TYPE, IMAGE, Y, X = (ROW_COLUMNS.index(c) for c in ("token_type", "image", "y", "x"))
SOFT = 60
"""Id of the placeholder."""
BEGIN, END = 58, 59

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "vision_use_head": False,
}


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    """Random pixels `[3, H, W]`."""
    torch.manual_seed(3)
    return [torch.randn(3, *size) for size in sizes]


def prompts(soft: list[int], length: int, begin: int | None = None) -> dict[str, torch.Tensor]:
    """Three texts with a picture of so many soft tokens, at another place in each; the second is padded."""
    torch.manual_seed(2)
    ids = torch.randint(5, 56, (3, length))
    for b, (at, n) in enumerate(zip((2, 1, 4), soft, strict=True)):
        ids[b, at : at + n] = SOFT
        if begin is not None:
            ids[b, at - 1] = begin
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def tokenizer(*added: str, **names: str):
    """Words, and the tokens added from id 108 on."""
    made = word_tokenizer(**names)
    made.add_tokens([AddedToken(token, normalized=False, special=not token.isspace()) for token in added])
    return made


def siglip_reference(vision, pixels: torch.Tensor) -> Reference:
    def start():
        e = vision.embeddings
        x = F.conv2d(pixels, e.patch_embedding.weight, e.patch_embedding.bias, stride=4)
        return (x.flatten(2).transpose(1, 2) + e.position_embedding.weight,) * 2

    def end(x):
        return {"ln_final": layer_norm(vision.post_layernorm)(x)}

    return Reference("vision", start, siglip_blocks(vision.encoder, 2), end, causal=False)


def gemma_reference(language, ids, soft, *, heads, norms, also, **block) -> Reference:
    """heads(block) and norms(block): those arguments of `Block`."""
    norm = lambda module: rms_norm(module, plus=1.0)  # noqa: E731
    blocks = [
        Block(
            **{
                "heads": 4,
                "q": linear(b.self_attn.q_proj),
                "k": linear(b.self_attn.k_proj),
                "v": linear(b.self_attn.v_proj),
                "o": linear(b.self_attn.o_proj),
                "up": linear(b.mlp.gate_proj),
                "gated": linear(b.mlp.up_proj),
                "down": linear(b.mlp.down_proj),
                "act": lambda x: F.gelu(x, approximate="tanh"),
                "norm1": norm(b.input_layernorm),
                "turn": lambda x: rope(x, 10_000.0),
                **norms(b),
                **heads(b),
            }
        )
        for b in language.layers
    ]

    def start():
        embed = language.embed_tokens.weight[ids] * 32**0.5
        x = embed.clone()
        x[ids == SOFT] = soft.flatten(0, -2)
        return embed, x

    return Reference("text", start, blocks, lambda x: {"ln_final": norm(language.norm)(x)}, also=also)


class PlacementTests:
    """A distinctive value at a known cell is found at the rows that say so, from pixels to the text.

    read: the site that the projector reads. cells: (sample, y, x) of patches to try.
    """

    read = "vision.ln_final"
    cells = ((0, 0, 0), (1, 2, 3), (2, 3, 1))

    def painted(self, b: int, y: int, x: int) -> dict[str, torch.Tensor]:
        """The inputs with the patch's pixels changed."""
        tensors = dict(self.tensors())
        tensors["pixel_values"] = tensors["pixel_values"].clone()
        tensors["pixel_values"][b, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 1.0
        return tensors

    def token(self, y: int, x: int) -> tuple[int, int, int]:
        """Tile and cell of the soft token that a patch is part of."""
        return 0, y, x

    def moved(self, model, site, run, plain) -> torch.Tensor:
        """Rows of what changed at a site."""
        changed = (run.acts[site] - plain.acts[site]).abs().amax(-1) > 1e-3
        return run.rows[model.space_of(site)][changed]

    def test_pixels_of_a_patch_are_seen_at_its_row(self, model):
        plain = model.run(self.tensors(), capture="vision.embed")
        for b, y, x in self.cells:
            run = model.run(self.painted(b, y, x), capture="vision.embed")
            (row,) = self.moved(model, "vision.embed", run, plain)
            assert row[[0, TYPE, IMAGE, Y, X]].tolist() == [b, TOKEN_CODES["patch"], 0, y, x]

    def test_a_patch_arrives_at_its_soft_token(self, model):
        tensors = self.tensors()
        plain = model.run(tensors, capture="projector")
        for b, y, x in self.cells:
            rows = plain.rows["vision"]
            here = (rows[..., 0] == b) & (rows[..., Y] == y) & (rows[..., X] == x)
            here &= rows[..., TYPE] == TOKEN_CODES["patch"]
            assert here.sum() == 1
            edit = {self.read: lambda v, here=here: torch.where(here[..., None], -v, v)}
            run = model.run(tensors, capture="projector", edit=edit)
            (row,) = self.moved(model, "projector", run, plain)
            assert row[[0, TYPE, IMAGE, Y, X]].tolist() == [b, TOKEN_CODES["image"], *self.token(y, x)]

    def test_a_soft_token_arrives_in_the_text(self, model):
        tensors = self.tensors()
        plain = model.run(tensors, capture=["projector", "text.0.resid_pre"])
        rows = plain.rows["projector"]
        for b in range(3):
            for place in torch.where(rows[b, :, TYPE] == TOKEN_CODES["image"])[0].tolist():

                def mark(value, b=b, place=place):
                    value = value.clone()
                    value[b, place] += 5.0
                    return value

                run = model.run(tensors, capture="text.0.resid_pre", edit={"projector": mark})
                (row,) = self.moved(model, "text.0.resid_pre", run, plain)
                assert row[[0, TYPE, IMAGE, Y, X]].tolist() == rows[b, place, [0, TYPE, IMAGE, Y, X]].tolist()
                assert tensors["input_ids"][b, row[1]] == SOFT

    def test_the_stream_is_read_out_as_the_model_does(self, model):
        last = f"text.{model.towers['text'].dims.blocks - 1}.resid_post"
        run = model.run(self.tensors(), capture=last)
        keep = self.keep(model, run, last)
        out = unembedding(model)
        logits = out.logits(run.acts[last][keep])
        torch.testing.assert_close(logits.float(), run.out.logits[keep], rtol=1e-4, atol=1e-4)

    def test_text_alone(self, model):
        ids = torch.tensor([[5, 6, 7, 8]])
        run = model.run({"input_ids": ids}, capture="text.*.resid_post")
        assert set(run.rows) == {"text", "text.pooled"} and run.out.logits.shape[:2] == (1, 4)
        longer = model.run({"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}, capture="text.0.resid_pre")
        assert longer.acts["text.0.resid_pre"].shape == (1, 5, 32)

    def test_what_a_picture_says_is_generated_whatever_the_padding(self, model):
        """Each sample alone, without padding, goes on as it does in the batch."""
        inputs = model.prepare(self.tensors())
        together = model.generate(inputs, max_new_tokens=3).ids
        for b in range(3):
            one = inputs.take([b])
            keep = one.tensors["attention_mask"][0].bool()
            alone = {k: v[:, keep] if v.shape == (1, len(keep)) else v for k, v in one.tensors.items()}
            assert torch.equal(model.generate(alone, max_new_tokens=3).ids[0], together[b])

    def test_one_forward_of_what_was_generated_says_the_same(self, model):
        """No token generated is read by those in front of it, whatever a prompt's tokens read."""
        longer, made = model.continued(self.tensors(), 4)
        generated = longer.rows["text"][..., TYPE] == TOKEN_CODES["generated"]
        said = model.run(longer).out.logits.argmax(-1)
        for b, ids in enumerate(made.ids):
            (places,) = torch.where(generated[b])
            assert len(places) and torch.equal(said[b, places - 1], ids)
