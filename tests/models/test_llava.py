from __future__ import annotations

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from mmxai.errors import ArgumentError, ModelError
from mmxai.models import load_model
from mmxai.models.check import check
from mmxai.types import TOKEN_CODES

from .contract import AdapterTests, run_reference, shake
from .llava_ import IMAGE, clip_config, clip_reference, llama_config, llama_reference, projected


def config(**changes) -> LlavaConfig:
    return LlavaConfig(
        vision_config=clip_config(), text_config=llama_config(), image_token_id=IMAGE, **changes
    )


def prompts(before: int = 2, soft: int = 16) -> dict[str, torch.Tensor]:
    """Three texts with a picture each; the second is shorter, the third has its picture further on."""
    torch.manual_seed(2)
    ids = torch.randint(3, 60, (3, soft + 7))
    for b, at in enumerate((before, before, before + 2)):
        ids[b, at : at + soft] = IMAGE
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def soft_tokens(module, pixels: torch.Tensor) -> torch.Tensor:
    """What the projector makes of pictures: from the states in front of the last block, no class token."""
    sites = run_reference(clip_reference(module.vision_tower, pixels), torch.ones(len(pixels), 17).bool())
    return projected(module, sites["vision.3.resid_pre"][:, 1:])


class TestLlava(AdapterTests):
    def make(self):
        return LlavaForConditionalGeneration(config())

    def tensors(self):
        return {**prompts(), **self.image()}

    def references(self, module, tensors):
        inner, pixels = module.model, tensors["pixel_values"]
        with torch.no_grad():
            soft = soft_tokens(inner, pixels).flatten(0, 1)
        return [
            clip_reference(inner.vision_tower, pixels),
            llama_reference(inner.language_model, tensors["input_ids"], soft),
        ]

    def others(self, module, tensors):
        return {"projector": soft_tokens(module.model, tensors["pixel_values"])}

    def states(self, module, tower, tensors, towers):
        if tower.name == "text":
            return module(**tensors, output_hidden_states=True).hidden_states
        return module.model.vision_tower(tensors["pixel_values"], output_hidden_states=True).hidden_states

    def test_rows_of_the_text_say_where_the_picture_is(self, model):
        rows = model.run(self.tensors()).rows["text"]
        assert rows.shape == (3, 23, 8)
        assert rows[0, 1, 4:].tolist() == [
            TOKEN_CODES["text"],
            int(self.tensors()["input_ids"][0, 1]),
            -1,
            -1,
        ]
        assert rows[0, 2].tolist() == [0, 2, 0, 0, TOKEN_CODES["image"], IMAGE, 0, -1]
        assert rows[0, 9].tolist() == [0, 9, 1, 3, TOKEN_CODES["image"], IMAGE, 0, -1]
        assert rows[2, 9].tolist() == [2, 9, 1, 1, TOKEN_CODES["image"], IMAGE, 0, -1]
        assert (rows[1, -2:, 4] == TOKEN_CODES["pad"]).all()

    def test_a_cell_arrives_at_the_row_that_says_so(self, model):
        """Independent of any layout: one patch is marked in the projector, and is found in the text."""
        tensors = self.tensors()
        plain = model.run(tensors, capture="text.0.resid_pre")
        for b, y, x in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):

            def mark(value, b=b, y=y, x=x):
                value = value.clone()
                value[b, 4 * y + x] += 5.0
                return value

            run = model.run(tensors, capture="text.0.resid_pre", edit={"projector": mark})
            moved = (run.acts["text.0.resid_pre"] - plain.acts["text.0.resid_pre"]).abs().amax(-1) > 1
            (found,) = run.rows["text"][moved]
            assert found[[0, 2, 3, 4, 6]].tolist() == [b, y, x, TOKEN_CODES["image"], 0]

    def test_an_edit_reaches_the_text_on_the_first_run_and_on_later_ones(self, module):
        """transformers records the states that the projector reads with hooks that it adds on first use."""
        outs = []
        for runs in (0, 2):
            model = load_model(module if runs else self.fresh(module))
            for _ in range(runs):
                model.run(self.tensors())
            edit = {"vision.2.resid_post": lambda x: x * 2 + 1}
            outs.append(model.run(self.tensors(), capture="projector", edit=edit).acts["projector"])
        torch.testing.assert_close(outs[0], outs[1])
        plain = model.run(self.tensors(), capture="projector").acts["projector"]
        assert (outs[1] - plain).abs().max() > 0.1

    @staticmethod
    def fresh(module):
        again = LlavaForConditionalGeneration(module.config)
        again.load_state_dict(module.state_dict())
        return again.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return load_model(shake(LlavaForConditionalGeneration(config())))


def pixels(n: int = 2) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(n, 3, 16, 16)


def test_text_alone_and_pictures_alone(model):
    ids = torch.tensor([[5, 6, 7]])
    run = model.run({"input_ids": ids}, capture="text.*")
    assert set(run.rows) == {"text", "text.pooled"} and run.out.logits.shape == (1, 3, 64)
    run = model.run({"pixel_values": pixels()}, capture=["vision.1.resid_post", "projector"])
    assert run.acts["projector"].shape == (2, 16, 32)
    with pytest.raises(ArgumentError, match="pixel_values"):
        model.run({"input_ids": ids}, capture="vision.1.z")


def test_samples_with_no_two_and_one_picture(model):
    ids = torch.full((3, 36), 7)
    ids[1, 1:17] = ids[1, 19:35] = ids[2, 4:20] = IMAGE
    run = model.run({"input_ids": ids, "pixel_values": pixels(3)}, capture=["*.1.resid_post", "projector"])
    assert run.acts["vision.1.resid_post"].shape == (3, 34, 24)
    kinds = run.rows["vision"][..., 4]
    assert (kinds != TOKEN_CODES["pad"]).sum(1).tolist() == [0, 34, 17]
    assert run.rows["vision"][1, 17:20, 2:7].tolist()[1] == [0, 0, TOKEN_CODES["patch"], -1, 1]
    assert run.rows["text"][1, [1, 20], 6].tolist() == [0, 1]
    alone = model.run({"pixel_values": pixels(3)}, capture="vision.1.resid_post").acts["vision.1.resid_post"]
    torch.testing.assert_close(run.acts["vision.1.resid_post"][1, 17:], alone[1])
    torch.testing.assert_close(run.acts["vision.1.resid_post"][2, :17], alone[2])


def test_samples_taken_from_a_batch(model):
    ids = torch.full((3, 36), 7)
    ids[1, 1:17] = ids[1, 19:35] = ids[2, 4:20] = IMAGE
    inputs = model.prepare({"input_ids": ids, "pixel_values": pixels(3)})
    whole = model.run(inputs, capture="text.1.resid_post").acts["text.1.resid_post"]
    some = inputs.take([2, 1, 2])
    assert some.tensors["pixel_values"].shape[0] == 4
    part = model.run(some, capture="text.1.resid_post").acts["text.1.resid_post"]
    torch.testing.assert_close(part, whole[[2, 1, 2]])
    # The last has a picture less than the second: its row tables are as long as what its run gives.
    last = inputs.take([2])
    _, batch = model.capture(last, "vision.1.resid_post")
    assert len(batch.rows) == 17 and {len(last.rows[s][0]) for s in ("vision", "projector")} == {17, 16}
    # The first has none.
    first = inputs.take([0])
    assert set(first.tensors) == {"input_ids"} and "vision" not in first.rows
    alone = model.run(first, capture="text.1.resid_post").acts["text.1.resid_post"]
    torch.testing.assert_close(alone, whole[:1])


def test_padding_in_front_is_moved_behind_what_is_generated(model):
    """As transformers' processors pad for generation."""
    tensors = {**prompts(), "pixel_values": pixels(3)}
    order = torch.argsort(tensors["attention_mask"], dim=1, stable=True)
    front = {k: tensors[k].gather(1, order) for k in ("input_ids", "attention_mask")}
    assert not front["attention_mask"][:, 0].all()
    want, said = model.continued(tensors, 4)
    got, same = model.continued({**tensors, **front}, 4)
    assert [i.tolist() for i in same.ids] == [i.tolist() for i in said.ids]
    assert torch.equal(got.rows["text"], want.rows["text"])
    assert torch.equal(got.tensors["input_ids"], want.tensors["input_ids"])


def test_placeholders_and_pictures_must_agree(model):
    ids = torch.full((1, 20), 7)
    ids[0, :15] = IMAGE
    with pytest.raises(ArgumentError, match="15 placeholders"):
        model.run({"input_ids": ids, "pixel_values": pixels(1)})
    ids[0, :16] = IMAGE
    with pytest.raises(ArgumentError, match="lack those of the last 1"):
        model.run({"input_ids": ids, "pixel_values": pixels(2)})


def test_check_passes(model):
    report = check(model)
    assert report.ok, str(report)
    assert "behind what the text reads" in str(report)


def test_a_forward_of_the_module_itself_cannot_be_edited(model):
    with pytest.raises(ModelError, match=r"model\.run"), model.intervene({"vision.0.z": torch.zeros_like}):
        model.module(pixel_values=pixels(1), input_ids=torch.full((1, 16), IMAGE))


def test_the_language_tower_is_also_called_lm(model):
    assert model.resolve("lm.1.z") == ["text.1.z"] and model.resolve("projector") == ["projector"]


def test_generated_texts_are_those_of_whole_forwards(model):
    """Greedy by hand, one sample at a time and without a cache."""
    inputs = model.prepare({**prompts(), "pixel_values": pixels(3)})
    with torch.no_grad():
        expected = []
        for b in range(3):
            one = inputs.take([b])
            ids = one.tensors["input_ids"][:, : int(one.tensors["attention_mask"].sum())]
            start = ids.shape[1]
            for _ in range(5):
                logits = model.module(input_ids=ids, pixel_values=one.tensors["pixel_values"]).logits
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
            expected.append(ids[0, start:].tolist())
    got = model.generate(inputs, max_new_tokens=5, eos_token_id=-1)
    assert [g.tolist() for g in got.ids] == expected


def test_rows_of_what_was_generated(model):
    inputs = model.prepare({**prompts(), "pixel_values": pixels(3)})
    longer, made = model.continued(inputs, 4)
    assert len(made.ids) == 3 and max(map(len, made.ids)) == 4
    _, batch = model.capture(inputs, "text.1.resid_post", generate=4)
    for b, n in enumerate((23, 21, 23)):
        mine = batch.rows.table[batch.rows.sample == b]
        said = mine[mine[:, 4] == TOKEN_CODES["generated"]]
        assert said[:, 5].tolist() == made.ids[b].tolist()
        assert said[:, 7].tolist() == list(range(len(said))) and said[0, 1] == n
        assert said[:, [2, 3, 6]].eq(-1).all()
    assert longer.tensors["input_ids"].shape[1] == batch.rows.position.max() + 1
    # The same states as while it generated: those of the steps, one row each.
    steps = []
    with model.intervene({"text.1.resid_post": lambda x: steps.append(x.clone()) or x}):
        model.generate(inputs.take([0]), max_new_tokens=4)
    while_generating = torch.cat(steps[1:], 1)[0]
    first = batch["text.1.resid_post"][batch.rows.sample == 0]
    torch.testing.assert_close(first[23 : 23 + len(while_generating)], while_generating, rtol=1e-3, atol=1e-4)


def test_an_edit_of_the_picture_holds_while_text_is_generated(model):
    inputs = model.prepare({**prompts(), "pixel_values": pixels(3)})
    seen = []

    def blank(x):
        seen.append(tuple(x.shape))
        return torch.zeros_like(x)

    with model.intervene({"projector": blank}):
        edited = model.generate(inputs, max_new_tokens=4, eos_token_id=-1)
    assert seen == [(3, 16, 32)]
    with model.intervene({"text.0.resid_post": lambda x: seen.append(tuple(x.shape)) or x}):
        model.generate(inputs, max_new_tokens=4, eos_token_id=-1)
    assert seen[1:] == [(3, 23, 32)] + [(3, 1, 32)] * 3
    # The same tokens by hand: the language model alone, with nothing where the picture was.
    ids = inputs.tensors["input_ids"][:1]
    embeds = model.module.get_input_embeddings()(ids).masked_fill((ids == IMAGE)[..., None], 0.0)
    said = []
    with torch.no_grad():
        for _ in range(4):
            state = model.module.model.language_model(inputs_embeds=embeds).last_hidden_state
            said.append(int(model.module.lm_head(state[0, -1]).argmax()))
            embeds = torch.cat([embeds, model.module.get_input_embeddings()(torch.tensor([[said[-1]]]))], 1)
    assert edited.ids[0].tolist() == said
