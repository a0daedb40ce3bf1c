"""Contributions that add up to the output, gradients beside finite differences, ablation by hand."""

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
)  # fmt: skip

import mmxai
from mmxai.errors import ArgumentError, ModelError
from mmxai.methods.neurons import ablate, activation_gradient, logit_contribution, similarity_contribution
from mmxai.models import edits
from mmxai.models.metrics import Cosine, ZeroShot, ZeroShotMargin, next_token_loss
from mmxai.models.near_texts import embed_texts
from mmxai.shapes import ShapesWorld
from tests.harvesting.conftest import save_tiny_clip

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
WIDTH = 32


def _gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=16, bos_token_id=1)
    )


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "gpt2": _gpt2,
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
}


@pytest.fixture(scope="module", params=MODELS)
def lm(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODELS[request.param]()
        for p in module.parameters():  # norms and biases that are not 1 and 0
            p.data += 0.1 * torch.randn_like(p)
    return mmxai.load_model(module)


@pytest.fixture(scope="module")
def batches():
    made = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (6, 9), generator=made)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    mask[3, 7:] = 0
    return [{"input_ids": ids[a : a + 3], "attention_mask": mask[a : a + 3]} for a in (0, 3)]


@pytest.mark.parametrize("token", [None, 7])
def test_contributions_of_the_stream_add_up_to_the_logit(lm, batches, token):
    found = logit_contribution(lm, "text.1.resid_post", batches, token=token)
    unembed = lm.module.get_output_embeddings().weight.detach()
    norm = lm.towers["text"].sites["text.ln_final"].point.module
    bias = norm.bias.detach() if getattr(norm, "bias", None) is not None else torch.zeros(WIDTH)
    ids, mask = (torch.cat([b[k] for b in batches]) for k in ("input_ids", "attention_mask"))
    if token is None:
        targets = ids[:, 1:][mask[:, 1:].bool()]
        assert found.items == len(targets)
    else:
        targets = torch.full((6,), 7)
        assert found.items == 6
    logits = lm.run({"input_ids": ids, "attention_mask": mask}).out.logits
    true = (
        logits[:, :-1][mask[:, 1:].bool()].gather(1, targets[:, None]) if token is None
        else logits[torch.arange(6), mask.sum(1) - 1, 7]
    )  # fmt: skip
    assert found.total == pytest.approx(float(true.mean()), abs=1e-5)
    fixed = float((unembed[targets] @ bias).mean())
    assert found.mean.sum() + fixed == pytest.approx(found.total, abs=1e-4)


def test_a_neurons_contribution_is_what_the_frozen_read_out_loses_without_it(lm, batches):
    site, unit = "text.1.mlp_post", 5
    found = logit_contribution(lm, site, batches, token=7)
    norm = lm.towers["text"].sites["text.ln_final"].point.module
    out = lm.towers["text"].sites[site].point.module.weight.detach()
    write = (
        out[:, unit] if isinstance(lm.towers["text"].sites[site].point.module, torch.nn.Linear) else out[unit]
    )
    lost = []
    for batch in batches:
        run = lm.run(batch, capture=[site, "text.1.resid_post"])
        last = batch["attention_mask"].sum(1) - 1
        stream = run.acts["text.1.resid_post"][torch.arange(3), last].double()
        a = run.acts[site][torch.arange(3), last, unit].double()
        # With its scale frozen a norm is linear, so its own differences at the true scale are exact.
        layer = isinstance(norm, torch.nn.LayerNorm)
        eps = norm.eps if layer else norm.variance_epsilon
        middle = stream.mean(1, keepdim=True) if layer else 0
        sigma = ((stream - middle).square().mean(1) + eps).sqrt()
        w = write.double()
        w = (w - w.mean() if layer else w) * norm.weight.detach().double()
        lost.append(a * (w @ lm.module.get_output_embeddings().weight[7].detach().double()) / sigma)
    lost = torch.cat(lost)
    assert found.mean[unit] == pytest.approx(float(lost.mean()), rel=1e-4)
    assert found.size[unit] == pytest.approx(float(lost.abs().mean()), rel=1e-4)
    assert (
        unit in found.ranking()
        and f"{44 if len(found.mean) == 44 else len(found.mean)}"
        and "token 7" in str(found)
    )


def test_heads_sum_their_columns(lm, batches):
    columns = logit_contribution(lm, "text.0.z", batches, token=3)
    heads = logit_contribution(lm, "text.0.z", batches, token=3, heads=4)
    assert np.allclose(heads.mean, columns.mean.reshape(4, -1).sum(1), atol=1e-6) and heads.kind == "head"


def test_activation_times_gradient_is_the_first_order_of_scaling(lm, batches):
    site, epsilon = "text.0.mlp_post", 1e-2

    def metric(run, inputs):
        return run.out.logits.double().logsumexp(-1).sum(1)

    found = activation_gradient(lm, site, batches, metric)

    def value(edit=None):
        runs = [lm.run(b, edit={site: edit} if edit else None) for b in batches]
        return float(torch.cat([metric(r, None) for r in runs]).mean())

    assert found.total == pytest.approx(value(), rel=1e-6)
    for unit in found.ranking()[:3].tolist():
        up, down = (value(edits.scale([unit], 1 + e)) for e in (epsilon, -epsilon))
        # The edit scales padded rows too, which ours leaves out.
        whole = (up - down) / (2 * epsilon)
        padded = _padded_part(lm, site, batches, metric, unit)
        assert whole == pytest.approx(found.mean[unit] + padded, rel=2e-2, abs=2e-4)


def _padded_part(lm, site, batches, metric, unit):
    parts = []
    for batch in batches:
        run = lm.run(batch, capture=[site], grad=lambda out: out.logits.double().logsumexp(-1).sum())
        each = (run.acts[site] * run.grads[site])[..., unit]
        parts.append((each * (1 - batch["attention_mask"])).sum(1))
    return float(torch.cat(parts).mean())


def test_gradients_of_the_cosine_are_difference_quotients(clip):
    world, site = ShapesWorld(8, seed=1, size=32), "vision.1.mlp_post"
    pictures = [[world[i].pil for i in range(8)]]
    text = embed_texts(clip, ["a red circle"])
    found = activation_gradient(clip, site, pictures, Cosine(text), name="red")
    assert found.items == 8 and "red" in str(found)

    def value(by):
        run = clip.run(pictures[0], capture=["vision.embeds"], edit={site: edits.scale([unit], by)})
        return float(Cosine(text)(run, None).mean())

    unit = int(found.ranking()[0])
    assert found.total == pytest.approx(value(1.0), abs=1e-6)
    assert (value(1.05) - value(0.95)) / 0.1 == pytest.approx(found.mean[unit], rel=2e-2)
    heads = activation_gradient(clip, "vision.1.z", pictures, Cosine(text), heads=2)
    columns = activation_gradient(clip, "vision.1.z", pictures, Cosine(text))
    assert np.allclose(heads.mean, columns.mean.reshape(2, -1).sum(1), atol=1e-6)


def test_what_has_no_direct_path_is_refused(lm, batches):
    with pytest.raises(ArgumentError, match="by one matrix"):
        logit_contribution(lm, "text.0.mlp_pre", batches)
    with pytest.raises(ArgumentError, match="no batches"):
        logit_contribution(lm, "text.0.mlp_post", [])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8))
        for p in module.parameters():
            p.data += 0.3 * torch.randn_like(p)
    gemma = mmxai.load_model(module)
    with pytest.raises(ModelError, match="norm or scale"):
        logit_contribution(gemma, "text.0.mlp_post", batches, token=7)
    gemma.module.config.final_logit_softcapping = 0.05  # caps what reaches it, so that nothing adds up
    with pytest.raises(ModelError, match="expected nothing behind"):
        logit_contribution(gemma, "text.1.resid_post", batches, token=7)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return mmxai.load_model(str(save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")))


def test_contributions_add_up_to_the_cosine(clip):
    world = ShapesWorld(12, seed=1, size=32)
    pictures = [[world[i].pil for i in range(a, a + 6)] for a in (0, 6)]
    text = embed_texts(clip, ["a red circle"])
    found = similarity_contribution(clip, "vision.1.resid_post", pictures, text)
    run = clip.run([world[i].pil for i in range(12)], capture=["vision.embeds"])
    embeds = run.acts["vision.embeds"][:, 0]
    cosine = torch.nn.functional.cosine_similarity(embeds, text)
    assert found.total == pytest.approx(float(cosine.mean()), abs=1e-6)
    norm = clip.module.vision_model.post_layernorm
    bias = text @ (clip.module.visual_projection.weight @ norm.bias).detach() / embeds.norm(dim=1)
    assert found.mean.sum() + float(bias.mean()) == pytest.approx(found.total, abs=1e-5)
    neurons = similarity_contribution(clip, "vision.1.mlp_post", pictures, text)
    assert len(neurons.mean) == 64 and "cosine" in str(neurons) and len(neurons.to_pandas()) == 64
    with pytest.raises(ArgumentError, match="vision tower"):
        similarity_contribution(clip, "text.1.mlp_post", pictures, text)


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "scale"])
def test_ablation_is_that_of_the_edit(lm, batches, how):
    site = "text.1.mlp_post"
    width = lm.width_of(site)
    made = torch.Generator().manual_seed(2)
    means, source = torch.randn(width, generator=made), torch.randn(50, width, generator=made)
    found = ablate(
        lm, site, [4, 9, 1], lambda: batches, {"loss": next_token_loss}, how=how, counts=(0, 2, 3),
        means=means, source=source, by=3.0, sets=2,
    )  # fmt: skip
    edit = {
        "zero": lambda u: edits.zero(u), "mean": lambda u: edits.mean(u, means[u]),
        "resample": lambda u: edits.resample(u, source[:, u], 0), "scale": lambda u: edits.scale(u, 3.0),
    }[how]  # fmt: skip

    def loss(chosen):
        once = {site: edit(chosen)} if chosen else None
        return float(
            torch.cat([next_token_loss(lm.run(b, edit=once), lm.prepare(b)) for b in batches]).mean()
        )

    assert found.counts == [0, 2, 3] and found.control["loss"].shape == (2, 3)
    assert np.allclose(found.chosen["loss"], [loss([]), loss([4, 9]), loss([4, 9, 1])], atol=1e-6)
    assert (found.control["loss"][:, 0] == found.chosen["loss"][0]).all()
    assert found.control["loss"][0, 2] != found.control["loss"][1, 2]
    assert found.drop("loss")[0] == 0 and len(found.to_pandas()) == 3 and "2 random sets" in str(found)


def test_ablating_heads_takes_all_their_columns(lm, batches):
    found = ablate(
        lm, "text.0.z", [2], lambda: batches, {"loss": next_token_loss}, counts=(1,), heads=4, sets=1
    )
    each = lm.width_of("text.0.z") // 4
    edit = {"text.0.z": edits.zero(list(range(2 * each, 3 * each)))}
    by_hand = torch.cat([next_token_loss(lm.run(b, edit=edit), lm.prepare(b)) for b in batches]).mean()
    assert found.chosen["loss"][0] == pytest.approx(float(by_hand), abs=1e-6)


def test_ablate_refuses(lm, batches):
    metrics = {"loss": next_token_loss}
    for wrong in (
        {"order": [1, 1]},
        {"order": [999]},
        {"order": [1], "sets": 0},
        {"order": [], "counts": (1,)},
    ):
        with pytest.raises(ArgumentError, match="different units"):
            ablate(lm, "text.0.mlp_post", wrong.pop("order"), lambda: batches, metrics, **wrong)
    with pytest.raises(ArgumentError, match="without its values"):
        ablate(lm, "text.0.mlp_post", [1], lambda: batches, metrics, how="mean")
    with pytest.raises(ArgumentError, match="ablate fewer"):
        ablate(lm, "text.0.z", [0, 1, 2], lambda: batches, metrics, heads=4, counts=(3,))


def test_a_margin_is_above_0_where_zero_shot_is_right(clip):
    world = ShapesWorld(10, seed=1, size=32)
    texts, labels = embed_texts(clip, ["red", "blue", "a star"]), torch.arange(10) % 3
    labels[4] = -1
    inputs = clip.prepare([world[i].pil for i in range(10)])
    inputs.rows["vision.pooled"][..., 0] = torch.arange(10)[:, None]
    run = clip.run(inputs, capture=["vision.embeds"])
    right, margin = (metric(texts, labels)(run, inputs) for metric in (ZeroShot, ZeroShotMargin))
    assert len(margin) == 9 and ((margin > 0) == (right == 1)).all()
