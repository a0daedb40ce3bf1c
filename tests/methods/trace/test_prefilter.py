"""Estimates that choose which cells are run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import metrics, spans
from mmxai.methods.trace.corruptions import Noise
from mmxai.methods.trace.prefilter import Prefiltered, estimate
from mmxai.methods.trace.studies import study
from mmxai.methods.trace.types import ATTENTION, Cell

from .test_attribution import INTO, SOURCE, logit, make

KINDS = ("resid_pre", "q", "k", "z", "mlp_out")


def planned(model, **options):
    metric = metrics.logit_difference(7, 12)
    return study(model, SOURCE, INTO, metric=metric, kinds=KINDS, **options)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_best_cells_are_found_and_run(family):
    model = make(family)
    plan = planned(model, heads=True)
    whole = plan.run()
    filtered = Prefiltered(planned(model, heads=True), keep=40)
    assert filtered.predict().cells == len(plan.cells)
    got = filtered.run()
    run = ~got.estimated
    assert run.sum() == 40 and got.cells == plan.cells
    np.testing.assert_allclose(got.value[run], whole.value[run], atol=2e-5)
    np.testing.assert_allclose(got.base, whole.base, atol=1e-6)
    # Of the truly largest a tenth, most are among those run.
    size = np.abs(whole.effect.mean(1))
    best = np.argsort(-size)[:20]
    assert run[best].mean() > 0.75
    assert np.corrcoef(estimate(plan).ravel(), whole.effect.ravel())[0, 1] > 0.8
    assert "estimated by attribution patching" in str(got)
    assert got.to_pandas().estimated.sum() == got.estimated.sum()


def test_windows_draws_answers_of_several_tokens_and_chunks():
    """Sequences a sample: noise in three draws, answer and foil each with a copy of the prompt."""
    model = make("gpt2")
    subject = torch.tensor([False, True, True, False, False, False]).repeat(2, 1)
    noise = Noise(spans.chosen(subject, "subject"), sigma=0.02, draws=3)
    metric = metrics.logit_difference([(7, 9)], [(7, 12)])
    options = {"metric": metric, "kinds": ("mlp_out", "attn_out"), "window": 2}
    whole = study(model, SOURCE, noise, **options).run()
    got = estimate(study(model, SOURCE, noise, **options))
    assert got.shape == whole.value.shape == (2 * 2 * 6, 6)
    scale = np.abs(whole.effect).max()
    close = np.abs(got - whole.effect) < 0.2 * scale
    assert close.mean() > 0.9
    least = study(model, SOURCE, noise, budget=2**30, **options)
    least.__dict__["chunks"] = [[0], [1]]
    np.testing.assert_allclose(estimate(least), got, atol=1e-5)


def test_attention_has_no_estimate_and_is_always_run():
    model = make("gpt2")
    inputs = model.prepare(SOURCE)
    rows = spans.positions(inputs)
    blocked = spans.attention(rows[3], rows[1])
    cells = [Cell(ATTENTION, b, 0) for b in range(3)] + [Cell("mlp_out", b, 1) for b in range(3)]
    plan = study(
        model, SOURCE, metric=metrics.probability(7), spans=[blocked, rows[2]], cells=cells, mode="patch",
        replace="zero",
    )  # fmt: skip
    got = Prefiltered(plan, keep=1).run()
    assert not got.estimated[:3].any()
    assert got.estimated[3:].all()
    np.testing.assert_allclose(got.value[:3], plan.run().value[:3], atol=1e-6)
    with pytest.raises(ArgumentError, match="keep=0"):
        Prefiltered(plan, keep=0)


def test_zeros_are_minus_activation_times_gradient():
    model = make("llama")
    options = {"metric": metrics.logit_difference(7, 12), "kinds": ("z",), "mode": "patch", "replace": "zero"}
    got = estimate(study(model, SOURCE, heads=True, **options))
    sites = [f"text.{b}.z" for b in range(3)]
    run = model.run(SOURCE, capture=sites, grad=lambda out: logit(_Out(out), None).sum())
    product = torch.stack([-(run.acts[s] * run.grads[s]).unflatten(-1, (4, -1)).sum(-1) for s in sites])
    # [blocks, samples, rows, heads] -> cells in the order block, row, head.
    want = product.permute(0, 2, 3, 1).flatten(0, 2)
    real = torch.from_numpy(got.any(1))
    np.testing.assert_allclose(got[real], want[real], atol=1e-5)
    assert real.sum() == 2 * 24 + 2 * 4  # of the last block the two rows that are read


class _Out:
    def __init__(self, out):
        self.out = out
