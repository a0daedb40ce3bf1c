"""Forwards that start in the middle give what the whole forward gives, for every kind of attention."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from mmxai.capture.hooks import held
from mmxai.models import load_model
from mmxai.models.attention_masks import split_before
from mmxai.models.finishing import finish, passing_over, reading_rows
from mmxai.models.recording import record

from .contract import count_hooks, shake

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64, eos_token_id=None)
    )


def llama(attention="sdpa"):
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=attention))


def gemma3():
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=3))


MODELS = {"gpt2": gpt2, "llama": llama, "llama eager": lambda: llama("eager"), "gemma3": gemma3}


@pytest.fixture(params=list(MODELS))
def model(request):
    return load_model(shake(MODELS[request.param](), seed=3))


def texts(padded: bool):
    ids = torch.randint(1, 64, (3, 8), generator=torch.Generator().manual_seed(0))
    if not padded:
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("padded", [False, True])
def test_replay_gives_the_states_of_the_whole_forward(model, padded):
    inputs = model.prepare(texts(padded))
    run, recording = record(model, "text", inputs)
    assert recording.reason is None and len(recording.keys) == 3
    for row in (0, 1, 5, 7):
        start = recording.start(row)
        assert start == row  # causal attention: nothing before the row need run
        states = recording.replay(model, [0, 1, 1, 2], start)[-1].unflatten(0, (4, 3))
        torch.testing.assert_close(
            states, recording.states[-1][:, start:].expand(4, -1, -1, -1), rtol=1e-4, atol=1e-5
        )
    few = model.prepare({"input_ids": texts(padded)["input_ids"][:, :2]})
    end = finish(model, {"text": [recording.states[-1][:, -2:]]}, few)
    torch.testing.assert_close(end.out.logits, run.out.logits[:, -2:], rtol=1e-5, atol=1e-5)


def test_edits_in_a_replay_are_those_of_a_whole_forward(model):
    inputs = model.prepare(texts(True))
    _, recording = record(model, "text", inputs)
    for site in ("text.1.mlp_out", "text.2.resid_pre", "text.1.v"):
        found = recording.replay(model, [1], 4, {site: lambda x: 1.5 * x + 0.1})[-1]

        def late(x):
            return torch.cat([x[:, :4], 1.5 * x[:, 4:] + 0.1], 1)

        whole = model.run(inputs, edit={site: late}, capture=["text.2.resid_post"])
        torch.testing.assert_close(found, whole.acts["text.2.resid_post"][:, 4:], rtol=1e-4, atol=1e-5)


def test_every_block_is_given_on_request():
    model = load_model(shake(llama(), seed=3))
    _, recording = record(model, "text", model.prepare(texts(False)))
    outputs = recording.replay(model, [1, 2], 3, every=True)
    assert len(outputs) == 3
    for b, x in enumerate(outputs):
        want = recording.states[b + 1][:, 3:].repeat(2, 1, 1)
        torch.testing.assert_close(x, want, rtol=1e-4, atol=1e-5)


def test_the_head_reads_the_rows_asked_for(model):
    inputs = model.prepare(texts(False))
    rows = torch.tensor([[0, 7], [3, 3], [6, 2]])
    with reading_rows(model, rows) as few:
        some = model.run(inputs).out.logits
    assert few and some.shape == (3, 2, 64)
    whole = model.run(inputs).out.logits
    torch.testing.assert_close(
        some, whole.gather(1, rows[..., None].expand(-1, -1, 64)), rtol=1e-5, atol=1e-6
    )


def test_nothing_stays_behind_after_an_error(model):
    inputs = model.prepare(texts(False))
    hooks = count_hooks(model.module)
    implementation = model.module.config._attn_implementation
    before = model.run(inputs).out.logits
    _, recording = record(model, "text", inputs)

    def fails(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording.replay(model, [0], 2, {"text.1.mlp_out": fails})
    with pytest.raises(KeyboardInterrupt), passing_over(model, {"text": [recording.states[-1]]}):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        record(model, "text", inputs, edit={"text.1.mlp_out": fails})
    assert count_hooks(model.module) == hooks
    assert model.module.config._attn_implementation == implementation
    assert not any("forward" in m.__dict__ for m in model.module.modules())
    assert torch.equal(model.run(inputs).out.logits, before)


def test_a_vision_tower_has_no_rows_that_nothing_looks_beyond():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 64, "max_position_embeddings": 20, "eos_token_id": 63},
        vision_config={**sizes, "image_size": 16, "patch_size": 4}, projection_dim=16,
    )  # fmt: skip
    model = load_model(shake(CLIPModel(config), seed=3))
    ids = torch.randint(2, 60, (2, 7))
    ids[:, -1] = 63
    inputs = model.prepare({"input_ids": ids, "pixel_values": torch.randn(2, 3, 16, 16)})
    for tower, row in (("vision", 0), ("text", 4)):
        run, recording = record(model, tower, inputs, capture=["vision.embeds", "text.embeds"])
        assert recording.reason is None and recording.start(4) == row
        states = recording.replay(model, [1], row)[-1]
        torch.testing.assert_close(states, recording.states[-1][:, row:], rtol=1e-4, atol=1e-5)
        end = finish(model, {tower: recording.states[1:]}, inputs, capture=["vision.embeds", "text.embeds"])
        for site, x in run.acts.items():
            torch.testing.assert_close(end.acts[site], x, rtol=1e-5, atol=1e-5)


def test_split_before_reads_masks():
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    assert [split_before(causal, r) for r in range(6)] == [0, 1, 2, 3, 4, 5]
    picture = causal.clone()
    picture[1:4, 1:4] = True  # rows 1 to 3 read each other
    assert [split_before(picture, r) for r in range(6)] == [0, 1, 1, 1, 4, 5]
    assert split_before(torch.ones(6, 6, dtype=torch.bool), 5) == 0


def test_what_cannot_resume_says_why():
    module = shake(llama(), seed=3)
    model = load_model(module)
    inputs = model.prepare(texts(False))
    blocks = module.model.layers
    handle = blocks[1].register_forward_pre_hook(lambda m, args: (args[0] + 1.0, *args[1:]))
    _, recording = record(model, "text", inputs)
    handle.remove()
    assert recording.reason is not None and "between blocks 0 and 1" in recording.reason
    assert record(model, "text", inputs)[1].reason is None


def test_recording_waits_for_runs_of_other_threads():
    """It changes how attention runs and hangs hooks on blocks: a run under way must see neither."""
    model = load_model(shake(llama(), seed=3))
    inputs, before = model.prepare(texts(False)), model.module.config._attn_implementation
    hooks, got = count_hooks(model.module), []
    thread = threading.Thread(target=lambda: got.append(record(model, "text", inputs)[1]))
    with held(model.module):
        thread.start()
        thread.join(1.0)
        assert thread.is_alive() and count_hooks(model.module) == hooks
        assert model.module.config._attn_implementation == before
    thread.join(60)
    assert got[0].reason is None and model.module.config._attn_implementation == before
