"""Latents of a dictionary in a running model: what they write adds up, and edits touch nothing else."""

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError
from mmxai.methods.neurons import (
    Latents,
    ablate,
    activation_gradient,
    logit_contribution,
    similarity_contribution,
)  # fmt: skip
from mmxai.models.metrics import Cosine, next_token_loss
from mmxai.models.near_texts import embed_texts
from mmxai.shapes import ShapesWorld
from tests.harvesting.conftest import save_tiny_clip
from tests.methods.neurons.test_live import WIDTH, _gpt2

M = 50


def latents_of(site, width, tokens=None):
    """Directions and an encoder drawn at random: what it leaves as error is large."""
    made = torch.Generator().manual_seed(3)
    directions, encoder = torch.randn(M, width, generator=made), torch.randn(M, width, generator=made)
    return Latents(f"{site}.sae", site, directions / 5, lambda x: (x @ encoder.T - 0.5).relu(), tokens)


@pytest.fixture(scope="module")
def lm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _gpt2()
        for p in module.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return mmxai.load_model(module)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return mmxai.load_model(str(save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")))


@pytest.fixture(scope="module")
def batches():
    ids = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return [{"input_ids": ids[a : a + 3], "attention_mask": mask[a : a + 3]} for a in (0, 3)]


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "mlp_post"])
def test_latents_add_what_their_directions_add(lm, batches, kind):
    """By the site's own columns, where a row is what the latents write."""
    site = f"text.1.{kind}"
    latents = latents_of(site, lm.width_of(site))
    found = logit_contribution(lm, latents, batches, token=7)
    stream, norm = "text.1.resid_post", lm.module.transformer.ln_f
    unembed = lm.module.get_output_embeddings().weight.detach()[7].double()
    out = lm.module.transformer.h[1].mlp.c_proj.weight.detach().double()  # Conv1D: [in, out]
    expected = []
    for batch in batches:
        run, last = lm.run(batch, capture=[site, stream]), batch["attention_mask"].sum(1) - 1
        x, r = (run.acts[s][torch.arange(3), last].double() for s in (site, stream))
        sigma = (r.var(1, correction=0) + norm.eps).sqrt()
        codes = latents.encode(x.float()).double()
        write = latents.directions.double() @ (out if kind == "mlp_post" else torch.eye(WIDTH).double())
        write = (write - write.mean(1, keepdim=True)) * norm.weight.detach().double()
        expected.append(codes * (write @ unembed) / sigma[:, None])
    expected = torch.cat(expected)
    assert np.allclose(found.mean, expected.mean(0), rtol=1e-4, atol=1e-6)
    assert np.allclose(found.size, expected.abs().mean(0), rtol=1e-4, atol=1e-6)
    assert found.kind == "latent" and found.site == f"{site}.sae" and "error left aside" in str(found)


def test_a_cosine_is_read_at_the_class_token(clip):
    pictures = [[ShapesWorld(6, seed=1, size=32)[i].pil for i in range(6)]]
    text = embed_texts(clip, ["a red circle"])
    site = "vision.1.resid_post"
    found = similarity_contribution(clip, latents_of(site, clip.width_of(site), "cls"), pictures, text)
    assert len(found.mean) == M and found.size.max() > 0
    with pytest.raises(ArgumentError, match="does not encode"):
        similarity_contribution(clip, latents_of(site, clip.width_of(site), "patch"), pictures, text)


@pytest.mark.parametrize("tokens", [None, "patch"])
def test_gradients_are_difference_quotients_of_scaling_a_latent(clip, tokens):
    pictures = [[ShapesWorld(6, seed=1, size=32)[i].pil for i in range(6)]]
    metric, site = Cosine(embed_texts(clip, ["a red circle"])), "vision.0.resid_post"
    latents = latents_of(site, clip.width_of(site), tokens)
    found = activation_gradient(clip, latents, pictures, metric)

    def value(unit, by):
        once = ablate(clip, latents, [unit], lambda: pictures, {"c": metric}, how="scale", by=by, counts=(1,))
        return once.chosen["c"][0]

    for unit in found.ranking()[:3].tolist():
        assert (value(unit, 1.01) - value(unit, 0.99)) / 0.02 == pytest.approx(found.mean[unit], rel=2e-2)


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "scale"])
def test_ablation_takes_what_the_chosen_write_and_keeps_the_error(lm, batches, how):
    site = "text.0.resid_post"
    latents = latents_of(site, WIDTH)
    means, source = torch.rand(M), torch.rand(20, M)
    found = ablate(
        lm, latents, [4, 9, 1], lambda: batches, {"loss": next_token_loss}, how=how, counts=(0, 2, 3),
        means=means, source=source, by=3.0, sets=2,
    )  # fmt: skip

    def loss(chosen):
        drawn = torch.Generator().manual_seed(0)

        def edit(x):
            codes = latents.encode(x)
            new = codes.clone()
            at = torch.randint(20, (x.shape[0] * x.shape[1],), generator=drawn).view(x.shape[:2])
            for unit in chosen:
                new[..., unit] = {
                    "zero": lambda u: 0 * codes[..., u], "mean": lambda u: means[u],
                    "resample": lambda u: source[at][..., u], "scale": lambda u: 3 * codes[..., u],
                }[how](unit)  # fmt: skip
            error = x - codes @ latents.directions
            return error + new @ latents.directions

        runs = [next_token_loss(lm.run(b, edit={site: edit}), lm.prepare(b)) for b in batches]
        return float(torch.cat(runs).mean())

    assert np.allclose(found.chosen["loss"], [loss([]), loss([4, 9]), loss([4, 9, 1])], atol=1e-5)
    assert abs(found.chosen["loss"][2] - found.chosen["loss"][0]) > 1e-3
    assert found.control["loss"].shape == (2, 3) and found.site == f"{site}.sae"


def test_rows_that_are_not_encoded_stay(clip):
    """Of a dictionary of patches the class token is left as it is, though its codes would be large."""
    site, seen = "vision.1.resid_post", {}
    latents = latents_of(site, clip.width_of(site), "patch")

    def metric(run, inputs):
        seen.setdefault("x", []).append(run.acts[site])
        return torch.zeros(len(run.acts[site]))

    metric.needs = (site,)
    pictures = [[ShapesWorld(2, seed=1, size=32)[i].pil for i in range(2)]]
    ablate(clip, latents, [1, 2], lambda: pictures, {"none": metric}, counts=(2,), sets=1)
    clean, edited = seen["x"][:2]
    codes = latents.encode(clean[:, 1:])[..., [1, 2]]
    assert torch.equal(clean[:, 0], edited[:, 0])
    assert torch.allclose(edited[:, 1:], clean[:, 1:] - codes @ latents.directions[[1, 2]], atol=1e-5)


def test_refuses(lm, batches):
    latents = latents_of("text.0.resid_post", WIDTH)
    with pytest.raises(ArgumentError, match="heads"):
        logit_contribution(lm, latents, batches, heads=2)
    with pytest.raises(ArgumentError, match="heads"):
        ablate(lm, latents, [1], lambda: batches, {"loss": next_token_loss}, heads=2, counts=(1,))
    with pytest.raises(ArgumentError, match=f"from 0 to {M - 1}"):
        ablate(lm, latents, [M], lambda: batches, {"loss": next_token_loss}, counts=(1,))
