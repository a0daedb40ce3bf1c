"""Splicing into a tiny CLIP: an SAE that loses nothing, one that knows only the mean, losses by hand."""

import json
import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import mmxai
from mmxai.errors import ArgumentError
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.nulls import rerandomised
from mmxai.methods.sae.recovered import Recovered, recovered
from mmxai.methods.sae.spec import SAESpec
from mmxai.models.metrics import ZeroShot, next_token_loss, similarity
from mmxai.shapes import ShapesWorld
from tests.harvesting.conftest import save_tiny_clip

SITE = "vision.0.resid_post"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return mmxai.load_model(str(save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")))


@pytest.fixture(scope="module")
def world():
    return ShapesWorld(24, seed=1, size=32)


@pytest.fixture(scope="module")
def measured(clip, world):
    batches = [list(world[a : a + 8]) for a in (0, 8, 16)]
    inputs = clip.prepare([world[i] for i in range(24)])
    run = clip.run(inputs, capture=[SITE, "vision.embeds", "text.embeds"])
    patches = run.acts[SITE][:, 1:].reshape(-1, 32)
    mean = patches.mean(0)
    eye = torch.eye(32)
    both = torch.cat([eye, -eye])
    spec = SAESpec("relu", 64, (SITE,), (32,))
    whole = SAE(spec, W_enc=both, b_enc=torch.zeros(64), W_dec=both.clone(), b_dec=torch.zeros(32))
    silent = SAE(spec, W_enc=both, b_enc=torch.full((64,), -1e9), W_dec=both.clone(), b_dec=mean.clone())
    labels = torch.arange(24) % 3
    labels[5] = -1
    texts = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    metrics = {"similarity": similarity, "zero-shot": ZeroShot(texts, labels)}
    found = recovered(clip, {"whole": whole, "silent": silent}, batches, metrics, mean, tokens="patch")
    return run, texts, labels, found


def test_what_loses_nothing_recovers_all(measured):
    run, texts, labels, found = measured
    image, text = run.acts["vision.embeds"][:, 0], run.acts["text.embeds"][:, 0]
    one = found["whole"]["similarity"]
    assert one.items == 24 and one.clean == pytest.approx(
        float(cosine_similarity(image, text).mean()), abs=1e-5
    )
    assert one.recovered == pytest.approx(1, abs=1e-3) and one.spliced == pytest.approx(one.clean, abs=1e-6)
    chosen = cosine_similarity(image[:, None], texts[None], dim=2).argmax(1)
    right = (chosen == labels)[labels >= 0].double().mean()
    assert found["whole"]["zero-shot"].items == 23
    assert found["whole"]["zero-shot"].clean == pytest.approx(float(right))


def test_the_mean_alone_recovers_nothing(measured, clip, world):
    clean, _, _, found = measured
    one = found["silent"]["similarity"]
    assert one.spliced == pytest.approx(one.mean_ablated, abs=1e-6) and one.recovered == pytest.approx(
        0, abs=1e-3
    )
    assert one.mean_ablated != pytest.approx(one.clean, abs=1e-5)

    def zeros(x):
        return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1)  # the class token stays

    run = clip.run(list(world[:24]), capture=["vision.embeds", "text.embeds"], edit={SITE: zeros})
    image, text = run.acts["vision.embeds"][:, 0], run.acts["text.embeds"][:, 0]
    assert one.zero_ablated == pytest.approx(float(cosine_similarity(image, text).mean()), abs=1e-5)
    moved = cosine_similarity(image, text) - cosine_similarity(
        *(clean.acts[s][:, 0] for s in ("vision.embeds", "text.embeds"))
    )
    assert one.zero_stderr == pytest.approx(float(moved.std()) / 24**0.5, rel=1e-3)
    assert "recovered" in repr(one) and one.to_json()["recovered"] == pytest.approx(0, abs=1e-3)


def test_nothing_can_be_recovered_of_nothing_lost(tmp_path):
    """What ablation costs must stand out of its noise before anything is divided by it."""
    plain = dict(metric="m", items=9, clean=1.0, spliced=0.9, zero_ablated=0.5, stderr=0.01, zero_stderr=0.1)
    clear = Recovered(**plain, mean_ablated=0.8, mean_stderr=0.09)
    assert clear.recovered == pytest.approx(0.5) and clear.zero_recovered == pytest.approx(0.8)
    unclear = Recovered(**plain, mean_ablated=0.8, mean_stderr=0.11)
    assert math.isnan(unclear.recovered) and unclear.to_json()["recovered"] is None
    assert "too little" in unclear.line() and "too little" not in clear.line()
    ends = Recovered(**{**plain, "spliced": math.inf}, mean_ablated=0.8, mean_stderr=0.09)
    assert (
        math.isinf(ends.recovered)
        and json.loads(ends.save(tmp_path / "x.json").read_text())["recovered"] is None
    )


def test_only_the_rows_it_knows_are_replaced(clip, world):
    """An SAE that writes zeros, spliced into the last token of each text, beside the same by hand."""
    site = "text.0.resid_post"
    spec = SAESpec("relu", 1, (site,), (32,))
    zero = torch.zeros(1, 32)
    sae = SAE(spec, W_enc=zero, b_enc=zero[:, 0], W_dec=zero, b_dec=torch.zeros(32))
    batch = list(world[:6])
    (found,) = recovered(
        clip, {"sae": sae}, [batch], {"similarity": similarity}, torch.zeros(32), tokens="last"
    ).values()

    def edit(x):
        x = x.clone()
        for row, length in enumerate(lengths):
            x[row, length - 1] = 0
        return x

    inputs = clip.prepare(batch)
    lengths = inputs.tensors["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1
    run = clip.run(inputs, capture=["vision.embeds", "text.embeds"], edit={site: edit})
    image, text = run.acts["vision.embeds"][:, 0], run.acts["text.embeds"][:, 0]
    expected = float(cosine_similarity(image, text).mean())
    assert found["similarity"].spliced == pytest.approx(expected, abs=1e-6)
    assert found["similarity"].clean != pytest.approx(expected, abs=1e-6)


def test_next_token_loss_leaves_padding_out():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

    class Out:
        out = type("Logits", (), {"logits": logits})
        tensors = {"input_ids": ids, "attention_mask": mask}  # noqa: RUF012

    found = next_token_loss(Out, Out)
    pairs = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    expected = torch.stack([cross_entropy(logits[b, t], ids[b, t + 1]) for b, t in pairs])
    torch.testing.assert_close(found, expected)


def test_bad_input(measured, clip):
    spec = SAESpec("relu", 32, (SITE,), (32,))
    eye = torch.eye(32)
    sae = SAE(spec, W_enc=eye, b_enc=torch.zeros(32), W_dec=eye, b_dec=torch.zeros(32))
    with pytest.raises(ArgumentError, match="no batches"):
        recovered(clip, {"sae": sae}, [], {"similarity": similarity}, torch.zeros(32))


def test_rerandomised_is_undone(clip):
    before = {k: v.clone() for k, v in clip.module.state_dict().items()}
    identity = clip.identity
    with pytest.raises(KeyError, match="on purpose"), rerandomised(clip, seed=1):
        now = clip.module.state_dict()
        moved = {k for k, v in before.items() if not torch.equal(v, now[k])}
        assert clip.identity["weights"] != identity["weights"]
        assert any("fc1.weight" in k for k in moved) and not any(k.endswith("bias") for k in moved)
        name = "vision_model.encoder.layers.0.mlp.fc1.weight"
        assert now[name].std() == pytest.approx(float(before[name].std()), rel=0.1)
        raise KeyError("on purpose")
    assert all(torch.equal(v, before[k]) for k, v in clip.module.state_dict().items())
    assert clip.identity == identity
