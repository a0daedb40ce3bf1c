"""Edges and paths of a small GPT-2 against forwards written out by hand, with the modules themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, ModelError
from mmxai.methods.trace.edge_attribution import edges
from mmxai.methods.trace.path_patching import patch_paths
from mmxai.models import load_model
from tests.models.contract import count_hooks, shake

from .test_attribution import IDS, INTO, SOURCE, logit, make

WIDTH, HEADS = 32, 4


@pytest.fixture(scope="module")
def model():
    return make("gpt2")


class ByHand:
    """A forward of GPT-2 block by block, with something added to what one reader reads."""

    def __init__(self, model):
        self.h, self.ln_f = model.module.transformer.h, model.module.transformer.ln_f
        self.head = model.module.lm_head
        self.model = model
        mask = torch.full((6, 6), -torch.inf).triu(1)
        pad = torch.where(torch.tensor([[1] * 6, [1] * 4 + [0] * 2])[:, None, None] > 0, 0.0, -torch.inf)
        self.mask = mask + pad

    def attend(self, block, x, q=None):
        parts = block.attn.c_attn(x).chunk(3, dim=-1)
        q = parts[0] if q is None else q
        q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (q, *parts[1:]))
        pattern = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.mask).softmax(-1)
        return (pattern @ v).transpose(1, 2).flatten(-2)

    def __call__(self, inputs, add=None, queries=None):
        """add: reader -> `[B, T, D]`; queries: block -> function of a block's input stream to its queries."""
        add, queries = add or {}, queries or {}
        x = self.model.run(inputs, capture="text.0.resid_pre").acts["text.0.resid_pre"].clone()
        wrote = {"embeddings": x}
        for number, block in enumerate(self.h):
            q = queries[number](x) if number in queries else None
            z = self.attend(block, block.ln_1(x + add.get(f"{number}.attn", 0)), q)
            matrix = block.attn.c_proj.weight
            for head in range(HEADS):
                own = slice(head * 8, head * 8 + 8)
                wrote[f"{number}.head.{head}"] = z[..., own] @ matrix[own]
            x = x + block.attn.c_proj(z)
            wrote[f"{number}.mid"] = x
            wrote[f"{number}.mlp"] = block.mlp(block.ln_2(x + add.get(f"{number}.mlp", 0)))
            x = x + wrote[f"{number}.mlp"]
        out = self.head(self.ln_f(x + add.get("output", 0)))[torch.arange(2), torch.tensor([5, 3])]
        return out[:, 7] - out[:, 12], wrote


@torch.no_grad()
def test_checked_edges_are_the_patch_of_that_edge_alone(model):
    by_hand = ByHand(model)
    base, own = by_hand(INTO)
    other, theirs = by_hand(SOURCE)
    with torch.enable_grad():
        got = edges(model, INTO, SOURCE, logit, steps=2, check=60)
    np.testing.assert_allclose(got.base, base.numpy(), atol=1e-5)
    np.testing.assert_allclose(got.other, other.numpy(), atol=1e-5)
    assert len(got.exact) == 60
    assert {"output", "2.attn", "1.mlp"} <= {v for _, v in got.exact}
    for (writer, reader), effect in got.exact.items():
        value, _ = by_hand(INTO, add={reader: theirs[writer] - own[writer]})
        np.testing.assert_allclose(effect, (value - base).numpy(), atol=2e-5, err_msg=f"{writer} {reader}")
    # Every writer in front of a reader, and none behind, has a score.
    assert np.isfinite(got.scores[0]).sum() == sum(1 + 5 * (n // 2) + (4 if n % 2 else 0) for n in range(7))
    assert count_hooks(model.module) == 0


def test_scores_of_the_embeddings_add_up_to_the_whole_difference(model):
    """All that differs between the runs comes in by the embeddings, and integrated gradients are complete."""
    apart = {}
    for steps in (1, 40):
        got = edges(model, INTO, SOURCE, logit, steps=steps)
        apart[steps] = np.abs(np.nansum(got.scores[:, 0], axis=1) - (got.other - got.base))
    size = np.abs(got.other - got.base)
    assert (apart[40] < 0.02 * size).all()
    assert (apart[1] > 5 * apart[40]).any()


def test_good_edges_are_found(model):
    got = edges(model, INTO, SOURCE, logit, steps=10, check=200)
    table = got.to_pandas().dropna()
    assert len(table) > 60
    assert np.corrcoef(table.score, table.exact)[0, 1] > 0.9
    assert got.top(3).exact.abs().mean() > 3 * table.exact.abs().median()


@pytest.mark.parametrize("family", ["llama", "neox", "gemma2"])
def test_other_families(family):
    """Grouped queries; blocks whose MLP does not read their attention; norms behind attention."""
    other = make(family)
    if family == "gemma2":
        with pytest.raises(ModelError, match="whole attentions"):
            edges(other, INTO, SOURCE, logit)
    got = edges(other, INTO, SOURCE, logit, steps=30, heads=family != "gemma2")
    size = np.abs(got.other - got.base)
    assert (np.abs(np.nansum(got.scores[:, 0], axis=1) - (got.other - got.base)) < 0.03 * size).all()
    written = got.writers.index("1.head.0" if family != "gemma2" else "1.attn")
    read = np.isfinite(got.scores[0, written, got.readers.index("1.mlp")])
    assert read == (family != "neox")


@torch.no_grad()
def test_paths_to_the_output(model):
    by_hand = ByHand(model)
    base, own = by_hand(INTO)
    _, theirs = by_hand(SOURCE)
    got = patch_paths(model, INTO, SOURCE, logit, mlps="held")
    assert len(got.senders) == 12
    for sender, effect in zip(got.senders, got.effects, strict=True):
        name = f"{sender.block}.head.{sender.head}"
        value, _ = by_hand(INTO, add={"output": theirs[name] - own[name]})
        np.testing.assert_allclose(effect, (value - base).numpy(), atol=2e-5)
    assert count_hooks(model.module) == 0


@torch.no_grad()
@pytest.mark.parametrize("mlps", ["held", "recomputed"])
def test_paths_to_another_heads_queries(model, mlps):
    by_hand = ByHand(model)
    base, own = by_hand(INTO)
    _, theirs = by_hand(SOURCE)
    got = patch_paths(
        model, INTO, SOURCE, logit, senders=[(1, 2)], receivers=[("q", 2, 3), ("q", 2, 0)], mlps=mlps
    )
    change = theirs["1.head.2"] - own["1.head.2"]
    before, after = by_hand.h[1], by_hand.h[2]

    def queries(x):
        mid = own["1.mid"] + change
        moved = mid + (before.mlp(before.ln_2(mid)) if mlps == "recomputed" else own["1.mlp"])
        plain = after.attn.c_attn(after.ln_1(x))[..., :WIDTH].clone()
        there = after.attn.c_attn(after.ln_1(moved))[..., :WIDTH]
        for head in (0, 3):
            plain[..., head * 8 : head * 8 + 8] = there[..., head * 8 : head * 8 + 8]
        return plain

    value, _ = by_hand(INTO, queries={2: queries})
    np.testing.assert_allclose(got.effects[0], (value - base).numpy(), atol=2e-5)
    assert np.abs(got.effects).max() > 2e-4
    assert got.receivers == ["q 2.3", "q 2.0"] and f"MLPs {mlps}" in str(got)


def test_a_sender_patched_at_some_rows(model):
    rows = torch.tensor([False] * 5 + [True])
    at_end = patch_paths(model, INTO, SOURCE, logit, senders=[(2, 1)], rows=rows)
    whole = patch_paths(model, INTO, SOURCE, logit, senders=[(2, 1)])
    # The last block's heads reach the logits of a row at that row alone: here the first sample's end.
    np.testing.assert_allclose(at_end.effects[0, 0], whole.effects[0, 0], atol=1e-6)
    assert at_end.effects[0, 1] == 0 and abs(whole.effects[0, 1]) > 1e-4


def test_results_and_refusals(model, tmp_path):
    got = patch_paths(model, INTO, SOURCE, logit, receivers=[("v", 1, 0)])
    assert [s.block for s in got.senders] == [0] * HEADS
    got.plot()
    got.save(tmp_path / "paths.json")
    scores = edges(model, INTO, SOURCE, logit, steps=1, check=2)
    scores.plot()
    scores.save(tmp_path / "edges.json")
    assert "edges, gradients of 1 steps" in str(scores)
    with pytest.raises(ArgumentError, match="expected heads before it"):
        patch_paths(model, INTO, SOURCE, logit, senders=[(2, 0)], receivers=[("q", 1, 0)])
    with pytest.raises(ArgumentError, match="4 heads"):
        patch_paths(model, INTO, SOURCE, logit, senders=[(0, 4)])
    with pytest.raises(ArgumentError, match="steps=0"):
        edges(model, INTO, SOURCE, logit, steps=0)
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = load_model(shake(BertForMaskedLM(BertConfig(**sizes, intermediate_size=40))))
    with pytest.raises(ModelError, match="post-norm"):
        edges(bert, {"input_ids": IDS[:1]}, {"input_ids": IDS[:1]}, logit)
