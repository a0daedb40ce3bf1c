"""Estimates of patches against the patches themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from mmxai.errors import ArgumentError
from mmxai.methods.trace.attribution import attribute
from mmxai.models import load_model
from tests.models.contract import count_hooks, shake
from tests.models.test_text import SIZES

IDS = torch.tensor([[5, 9, 11, 3, 8, 30], [7, 8, 22, 41, 0, 0]])
OTHER = torch.tensor([[5, 19, 12, 3, 8, 31], [9, 8, 23, 41, 0, 0]])
MASK = (IDS > 0).long()
INTO, SOURCE = ({"input_ids": ids, "attention_mask": MASK} for ids in (IDS, OTHER))
ENDS = torch.tensor([5, 3])


def make(name: str):
    sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    makers = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=16)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**sizes)),
        # A cap low enough to bend, and a window short enough to cut.
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=0.5, sliding_window=3)
        ),
    }
    torch.manual_seed(0)
    return load_model(shake(makers[name](), seed=2))


FAMILIES = ["gpt2", "llama", "neox", "gemma2"]


def logit(run, inputs):
    """The logit of token 7 less that of token 12, behind the last token."""
    last = run.out.logits[torch.arange(2), ENDS]
    return last[:, 7] - last[:, 12]


class Mixed:
    """Linear in what block 1's attention gives: nothing but the softmax stands between it and q or k."""

    needs = ("text.1.z",)

    def __call__(self, run, inputs):
        z = run.acts["text.1.z"].float()
        weight = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(5))
        real = MASK[..., None]
        return (z * weight * real).flatten(1).sum(1)


def patched(model, site, row, head, metric):
    """The metric with one row (and head) of a site put in from the other run, less without: the effect."""
    states = model.run(SOURCE, capture=site).acts[site]
    heads = model.heads_of(site) or 1
    width = states.shape[-1] // heads

    def edit(x):
        x = x.clone()
        x[:, row, head * width : (head + 1) * width] = states[:, row, head * width : (head + 1) * width]
        return x

    needs = list(getattr(metric, "needs", ()))
    inputs = model.prepare(INTO)
    with torch.no_grad():
        base = metric(model.run(inputs, capture=needs), inputs)
        return (metric(model.run(inputs, capture=needs, edit={site: edit}), inputs) - base).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["q", "k"])
def test_queries_and_keys_are_exact_where_only_the_softmax_bends(family, kind):
    model, site = make(family), f"text.1.{kind}"
    got = attribute(model, INTO, SOURCE, Mixed(), sites=site)
    assert got.corrected == [site]
    plain = attribute(model, INTO, SOURCE, Mixed(), sites=site, correct=False)
    effects, off = got.effects[site], 0.0
    for row in range(IDS.shape[1]):
        for head in range(effects.shape[2]):
            real = patched(model, site, row, head, Mixed())
            real = np.where(MASK[:, row] > 0, real, 0)
            np.testing.assert_allclose(
                np.where(MASK[:, row] > 0, effects[:, row, head], 0), real, atol=2e-5, rtol=1e-4
            )
            off = max(off, np.abs(plain.effects[site][:, row, head] - real).max())
    assert off > 1e-3  # without the correction the test would tell
    assert count_hooks(model.module) == 0
    assert model.towers["text"].length == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_become_exact_as_the_two_runs_come_close(family):
    """Noise so small that what is not linear is lost in what is."""
    model = make(family)
    noise = 3e-4 * torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    moved = {"text.embed": lambda x: x + noise}
    sites = [f"text.1.{k}" for k in ("resid_pre", "z", "v", "q", "k", "attn_out", "mlp_post", "mlp_out")]
    got = attribute(model, INTO, INTO, logit, sites=sites, source_edit=moved)
    run = model.run(INTO, capture=sites, edit=moved)
    inputs = model.prepare(INTO)
    for site in sites:
        heads = model.heads_of(site) or 1
        for row in (0, 3):
            edit = _one(run.acts[site], row, 0, heads)
            with torch.no_grad():
                real = logit(model.run(inputs, edit={site: edit}), inputs) - logit(model.run(inputs), inputs)
            scale = np.abs(got.effects[site]).max()
            np.testing.assert_allclose(
                got.effects[site][:, row, 0], real.numpy(), atol=0.02 * scale + 3e-6, err_msg=site
            )


def _one(states, row, head, heads):
    width = states.shape[-1] // heads

    def edit(x):
        x = x.clone()
        x[:, row, head * width : (head + 1) * width] = states[:, row, head * width : (head + 1) * width]
        return x

    return edit


def test_saturated_attention_hides_from_the_gradient_and_not_from_the_correction():
    """A head sure of one token: the gradient says that another query would change nothing."""
    model = make("gpt2")
    block = model.module.transformer.h[1].attn.c_attn
    with torch.no_grad():
        block.weight[:, :32] *= 60
    site = "text.1.q"
    corrected = attribute(model, INTO, SOURCE, logit, sites=site)
    plain = attribute(model, INTO, SOURCE, logit, sites=site, correct=False)
    cells = [(row, head) for row in range(4) for head in range(4)]
    real = np.array([patched(model, site, row, head, logit) for row, head in cells])
    ours, theirs = (np.array([a.effects[site][:, r, h] for r, h in cells]) for a in (corrected, plain))
    assert np.corrcoef(ours.ravel(), real.ravel())[0, 1] > 0.9
    assert np.abs(ours - real).mean() < 0.5 * np.abs(theirs - real).mean()


def test_rows_of_a_span_add_up_and_results_say_what_they_are(tmp_path):
    model = make("llama")
    got = attribute(model, INTO, SOURCE, logit, sites=["text.*.resid_post", "text.0.q"])
    mask = torch.tensor([False, True, True, False, False, False])
    some = got.over(mask)["text.1.resid_post"]
    np.testing.assert_allclose(some, got.effects["text.1.resid_post"][:, 1:3].sum(1), rtol=1e-6)
    # The last state of the last token is all that its logits hang on.
    whole = got.effects["text.2.resid_post"][0]
    assert np.abs(whole[:5]).max() == 0 and np.abs(whole[5]).max() > 0
    assert "attribution patching of 4 sites" in str(got)
    assert len(got.to_pandas()) == 3 * 6 + 6 * 4
    assert got.save(tmp_path / "a.json").exists()
    got.plot()


def test_what_cannot_be_compared_is_refused():
    model = make("gpt2")
    with pytest.raises(ArgumentError, match=r"\[6, 4\] rows and of \[5, 4\]"):
        short = {"input_ids": IDS[:, :5], "attention_mask": MASK[:, :5]}
        attribute(model, INTO, short, logit, sites="text.0.z")
    with pytest.raises(ArgumentError, match="does not depend"):
        attribute(model, INTO, SOURCE, lambda run, _: torch.zeros(2), sites="text.0.z")
    with pytest.raises(ArgumentError, match="mask"):
        attribute(model, INTO, SOURCE, logit, sites="text.0.z").over(torch.ones(3, dtype=torch.bool))
