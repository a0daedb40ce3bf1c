"""Edits for a block of code: decoding step by step with a cache against runs of the whole text without."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mmxai.errors import ArgumentError, ModelError, SiteNotFiredError
from mmxai.models import edits, load_model

from . import test_clip
from .contract import count_hooks, shake
from .test_elsewhere import OpenCLIP
from .test_text import SIZES

PROMPTS = {"input_ids": torch.tensor([[5, 9, 11, 3], [7, 8, 0, 0]])}
PROMPTS["attention_mask"] = (PROMPTS["input_ids"] > 0).long()
LENGTHS = (4, 2)
WIDTH = 32


def llama():
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 64, "eos_token_id": None}))


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64, eos_token_id=None)
    )


@pytest.fixture(params=[llama, gpt2], ids=["llama", "gpt2"])
def model(request):
    torch.manual_seed(0)
    return load_model(shake(request.param(), seed=3))


def direction(seed: int = 0) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def slow(model, edit, steps: int = 6):
    """Greedy decoding by runs of the whole text, one prompt at a time, without a cache."""
    out = []
    for ids, length in zip(PROMPTS["input_ids"], LENGTHS, strict=True):
        text = ids[:length].tolist()
        for _ in range(steps):
            run = model.run({"input_ids": torch.tensor([text])}, edit=edit)
            text.append(int(run.out.logits[0, -1].argmax()))
        out.append(text[length:])
    return out


@pytest.mark.parametrize("kind", ["resid_mid", "resid_post", "mlp_post", "q", "z", "attn_out"])
def test_every_decoded_token_is_edited(model, kind):
    site = f"text.1.{kind}"
    width = model.width_of(site)
    strong = {"add": edits.add(20 * torch.randn(width, generator=torch.Generator().manual_seed(1)))}
    some = torch.randn(width // 2, width, generator=torch.Generator().manual_seed(2))
    strong["project_out"] = edits.project_out(some, centre=torch.ones(width))
    strong["clamp"] = edits.clamp(torch.ones(width), 2.0, 2.5)
    strong["zero"] = edits.zero(range(0, width, 2))
    plain = [g.tolist() for g in model.generate(PROMPTS, max_new_tokens=6).ids]
    assert plain == slow(model, None)
    changed = 0
    for edit in strong.values():
        with model.intervene({site: edit}) as requests:
            got = [g.tolist() for g in model.generate(PROMPTS, max_new_tokens=6).ids]
        assert requests[site].fired == 6  # the prompt, and every token but the last
        assert got == slow(model, {site: edit})
        changed += got != plain
    assert changed
    assert count_hooks(model.module) == 0
    assert [g.tolist() for g in model.generate(PROMPTS, max_new_tokens=6).ids] == plain


def test_patterns_are_edited_at_every_decoded_token(model):
    """Keys are numbered with the padding in front, so one prompt alone; and none reads what comes later."""
    width = model.width_of("text.1.pattern")
    edit = {"text.1.pattern": edits.zero(range(1, width, width // 4))}  # key 1 of every head
    prompt = {"input_ids": PROMPTS["input_ids"][:1]}
    with model.intervene(edit) as requests:
        got = model.generate(prompt, max_new_tokens=6).ids[0].tolist()
    assert requests["text.1.pattern"].fired == 6
    assert got == slow(model, edit)[0] != slow(model, None)[0]


def test_blocks_nest_and_runs_inside_see_what_was_edited(model):
    site, v = "text.1.resid_post", direction()
    outer, inner, own = edits.add(v), edits.scale(range(WIDTH), 2.0), edits.add(direction(1))
    base = model.run(PROMPTS, capture=site).acts[site]
    with model.intervene({site: outer}):
        torch.testing.assert_close(model.run(PROMPTS, capture=site).acts[site], base + v)
        with model.intervene({site: inner}):
            got = model.run(PROMPTS, capture=site, edit={site: own}).acts[site]
            torch.testing.assert_close(got, (base + v) * 2 + direction(1))
        torch.testing.assert_close(model.run(PROMPTS, capture=site).acts[site], base + v)
    assert torch.equal(model.run(PROMPTS, capture=site).acts[site], base)


def test_the_module_itself_is_edited_too(model):
    edit = {"text.0.resid_mid": edits.add(direction())}
    expected = model.run(PROMPTS, edit=edit).out.logits
    with model.intervene(edit), torch.no_grad():
        got = model.module(**PROMPTS, use_cache=False).logits
    assert torch.equal(got, expected)


def test_gradients_inside_a_block(model):
    site, edit = "text.0.resid_post", {"text.0.resid_post": edits.add(direction())}

    def metric(out):
        return out.logits[:, 1].pow(2).mean()

    expected = model.run(PROMPTS, capture=site, edit=edit, grad=metric).grads[site]
    with model.intervene(edit):
        got = model.run(PROMPTS, capture=site, grad=metric).grads[site]
    torch.testing.assert_close(got, expected)


def test_patterns_nest(model):
    """A pattern is shown by a switch and not by a hook: runs in the block must not push it aside."""
    site = "text.1.pattern"

    def first(x):
        out = torch.zeros_like(x).unflatten(-1, (4, -1))
        out[..., 0] = 1.0
        return out.flatten(-2)

    expected = model.run(PROMPTS, capture="text.1.z", edit={site: first}).acts["text.1.z"]
    with model.intervene({site: first}):
        run = model.run(PROMPTS, capture=["text.1.z", site], edit={site: lambda x: x * 2})
        torch.testing.assert_close(run.acts["text.1.z"], expected * 2)
        torch.testing.assert_close(model.run(PROMPTS, capture="text.1.z").acts["text.1.z"], expected)
    assert model.run(PROMPTS, capture="text.1.z").acts["text.1.z"].sub(expected).abs().max() > 1e-3
    assert model.module.config._attn_implementation != "mmxai_eager"


def test_multihead_attention_nests():
    torch.manual_seed(0)
    model = load_model(shake(OpenCLIP()))
    pictures, site = {"pixel_values": torch.randn(2, 3, 16, 16)}, "vision.1.z"
    base = model.run(pictures, capture=site).acts[site]
    with model.intervene({site: edits.scale(range(24), 3.0)}):
        run = model.run(pictures, capture=site, edit={site: edits.add(torch.ones(24))})
        torch.testing.assert_close(run.acts[site], base * 3 + 1)
        torch.testing.assert_close(model.run(pictures, capture=site).acts[site], base * 3)
    assert torch.equal(model.run(pictures, capture=site).acts[site], base)
    assert not any("forward" in m.__dict__ for m in model.module.modules())


def test_it_detaches_whatever_happens(model):
    with pytest.raises(ZeroDivisionError), model.intervene({"*.resid_post": lambda x: x / (1 // 0)}):
        model.generate(PROMPTS)
    with pytest.raises(KeyboardInterrupt), model.intervene({"text.0.pattern": lambda x: x}):
        raise KeyboardInterrupt
    assert count_hooks(model.module) == 0
    model.generate(PROMPTS, max_new_tokens=1)


def test_an_edit_that_never_ran_is_an_error(model):
    with (
        pytest.raises(SiteNotFiredError, match=r"text\.2\.z never ran"),
        model.intervene({"text.2.z": lambda x: x, "text.0.z": lambda x: x}),
    ):
        model.run(PROMPTS, capture="text.0.z", stop=True)
    clip = load_model(shake(test_clip.TestCLIP().make()))
    with pytest.raises(SiteNotFiredError, match="tower"), clip.intervene({"vision.0.z": lambda x: x}):
        clip.run(test_clip.TestCLIP().text())


def test_what_cannot_work_is_refused(model):
    with pytest.raises(ArgumentError, match="no edits"), model.intervene({}):
        pass
    with (
        pytest.raises(ArgumentError, match="expected a tensor of shape"),
        model.intervene({"text.0.z": lambda x: x[..., :1]}),
    ):
        model.run(PROMPTS)
    with pytest.raises(ModelError, match="inside an edit"):
        model.run(
            PROMPTS, edit={"text.0.z": lambda x: model.intervene({"text.1.z": edits.zero([0])}).__enter__()}
        )
    assert count_hooks(model.module) == 0


def test_edits_hold_in_a_compiled_model(model):
    plain = model.generate(PROMPTS, max_new_tokens=4)
    edit = {"text.1.mlp_out": edits.add(direction(), 3.0)}
    with model.intervene(edit):
        steered = model.generate(PROMPTS, max_new_tokens=4)
    blocks = [model.point_of(f"text.{i}.resid_pre").module for i in range(3)]
    for block in blocks:
        block.compile(backend="eager")
    with model.intervene(edit):
        again = model.generate(PROMPTS, max_new_tokens=4)
    assert [i.tolist() for i in again.ids] == [i.tolist() for i in steered.ids]
    assert [i.tolist() for i in steered.ids] != [i.tolist() for i in plain.ids]
    after = model.generate(PROMPTS, max_new_tokens=4)
    assert [i.tolist() for i in after.ids] == [i.tolist() for i in plain.ids]


def test_other_threads_wait_and_are_not_edited(model):
    site = "text.1.resid_post"
    base = model.run(PROMPTS, capture=site).acts[site]
    text = model.generate(PROMPTS, max_new_tokens=3).ids
    seen, texts, started = [], [], threading.Event()

    def other():
        started.set()
        texts.append(model.generate(PROMPTS, max_new_tokens=3).ids)
        seen.append(model.run(PROMPTS, capture=site).acts[site])

    thread = threading.Thread(target=other)
    with model.intervene({site: edits.add(50 * direction())}):
        thread.start()
        started.wait()
        thread.join(0.2)
        assert not seen and not texts
        assert any(
            not torch.equal(a, b)
            for a, b in zip(model.generate(PROMPTS, max_new_tokens=3).ids, text, strict=True)
        )
    thread.join()
    assert torch.equal(seen[0], base)
    assert all(torch.equal(a, b) for a, b in zip(texts[0], text, strict=True))


def test_several_edits_of_several_sites(model):
    """A glob edits every block; a list goes in order; sites of unlike widths stand in one block."""
    v, mid = direction(), "text.1.mlp_post"
    given = {"*.resid_post": [edits.add(v), edits.scale(range(WIDTH), 0.5)], mid: edits.zero([0, 3])}
    wanted = ["text.0.resid_post", "text.2.resid_post", mid]
    spelt = {f"text.{b}.resid_post": lambda x: (x + v) * 0.5 for b in range(3)}
    expected = model.run(PROMPTS, capture=wanted, edit={**spelt, mid: edits.zero([0, 3])})
    with model.intervene(given) as requests:
        run = model.run(PROMPTS, capture=wanted)
        text = model.generate(PROMPTS, max_new_tokens=5).ids
    assert len(requests) == 4 and {r.fired for r in requests.values()} == {6}
    for site in wanted:
        torch.testing.assert_close(run.acts[site], expected.acts[site])
    torch.testing.assert_close(run.out.logits, expected.out.logits)
    assert not run.acts[mid][..., [0, 3]].any()
    assert [t.tolist() for t in text] == slow(model, given, 5)


def test_generation_stops_at_the_end_token_and_refuses_what_it_cannot_do(model):
    first = model.generate(PROMPTS, max_new_tokens=6).ids[0].tolist()
    end = first[3]
    got = model.generate(PROMPTS, max_new_tokens=6, eos_token_id=end).ids[0].tolist()
    assert got == first[: first.index(end)]
    assert model.generate(PROMPTS, max_new_tokens=1).texts is None
    with pytest.raises(ArgumentError, match="options of decoding"):
        model.generate(PROMPTS, input_ids=PROMPTS["input_ids"])
    with pytest.raises(ArgumentError, match="one a prompt"):
        model.generate(PROMPTS, num_return_sequences=2, do_sample=True)
    with pytest.raises(ModelError, match="generates no text"):
        load_model(test_clip.TestCLIP().make()).generate("a")


def test_stories(shared_data):
    """A real model: its own greedy text comes out, and a steered token becomes the text at every step."""
    model = load_model(shared_data / "stories260K")
    prompts = ["Once upon a time", "The dog"]
    plain = model.generate(prompts, max_new_tokens=24)
    assert plain.texts[0].startswith(", there was a little girl named Lily.")
    alone = [model.generate(p, max_new_tokens=24).texts[0] for p in prompts]
    assert plain.texts == alone  # padding in front changes nothing
    last = f"text.{model.towers['text'].dims.blocks - 1}.resid_post"
    token = int(model.prepare("dog").tensors["input_ids"][0, -1])
    unembedding = model.module.lm_head.weight[token].detach()
    with model.intervene({last: edits.add(unembedding, 1e4)}):
        steered = model.generate(prompts, max_new_tokens=10, eos_token_id=-1)
    assert all((ids == token).all() and len(ids) == 10 for ids in steered.ids)
    assert model.generate(prompts, max_new_tokens=24).texts == plain.texts
