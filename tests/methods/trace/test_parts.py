"""Metrics of answers, spans, corruptions and results, each against what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import corruptions, inputs, metrics, spans
from mmxai.methods.trace.results import TraceResult
from mmxai.methods.trace.types import Cell

from .conftest import prompts

CLEAN, TWIN = prompts()
LENGTHS = (9, 7, 9)


def scored(model, metric, given=CLEAN):
    prepared = model.prepare(given)
    bound = metric.bind(model, prepared)
    extended = bound.extend(prepared)
    return bound(model.run(extended), extended)


def by_hand(model, ids, answer):
    """log p(answer | prompt), a token at a time, each by a run of its own."""
    total, ids = 0.0, list(ids)
    for token in answer:
        logits = model.run({"input_ids": torch.tensor([ids])}).out.logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


def test_answers_of_several_tokens_are_scored_whole(model):
    answers, foils = [[3, 7], [4], [5, 6, 7]], [[3, 8], [4, 5], [9]]
    texts = [row[:n].tolist() for row, n in zip(CLEAN["input_ids"], LENGTHS, strict=True)]
    right = torch.tensor([by_hand(model, t, a) for t, a in zip(texts, answers, strict=True)])
    wrong = torch.tensor([by_hand(model, t, a) for t, a in zip(texts, foils, strict=True)])
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(scored(model, metrics.log_probability(answers)), right, **close)
    torch.testing.assert_close(scored(model, metrics.probability(answers)), right.exp(), **close)
    torch.testing.assert_close(
        scored(model, metrics.logit_difference(answers, foils)), right - wrong, **close
    )


def test_a_difference_of_single_tokens_is_that_of_logits(model):
    found = scored(model, metrics.logit_difference([3, 4, 5], 6))
    logits = model.run(CLEAN).out.logits
    want = [
        logits[i, n - 1, a] - logits[i, n - 1, 6]
        for i, (n, a) in enumerate(zip(LENGTHS, (3, 4, 5), strict=True))
    ]
    torch.testing.assert_close(found, torch.stack(want), rtol=1e-5, atol=1e-6)


def test_kl_compares_with_the_clean_run(model):
    prepared = model.prepare(CLEAN)
    bound = metrics.kl().bind(model, prepared)
    with pytest.raises(ArgumentError, match="clean run"):
        bound(model.run(prepared), prepared)
    rows = torch.tensor(LENGTHS) - 1
    clean, other = (model.run(x).out.logits[torch.arange(3), rows].log_softmax(-1) for x in (CLEAN, TWIN))
    bound = bound.with_reference(
        model.run(prepared).out.logits.gather(1, rows[:, None, None].expand(-1, 1, 64))
    )
    want = (clean.exp() * (clean - other)).sum(-1)
    torch.testing.assert_close(bound(model.run(TWIN), prepared), want, rtol=1e-4, atol=1e-6)


def test_answers_that_cannot_be_scored(model):
    prepared = model.prepare(CLEAN)
    with pytest.raises(ArgumentError, match="tokenizer"):
        metrics.probability("blue").bind(model, prepared)
    with pytest.raises(ArgumentError, match="2 for 3 prompts"):
        metrics.probability([3, 4]).bind(model, prepared)
    with pytest.raises(ArgumentError, match="no token"):
        metrics.probability([[], [3], [4]]).bind(model, prepared)
    ahead = {"input_ids": CLEAN["input_ids"], "attention_mask": CLEAN["attention_mask"].flip(1)}
    with pytest.raises(ArgumentError, match="padding"):
        metrics.probability(3).bind(model, model.prepare(ahead))


def test_spans_are_found_in_the_row_table(model):
    prepared = model.prepare(CLEAN)
    assert [s.name for s in spans.positions(prepared)] == [str(t) for t in range(9)]
    assert spans.positions(prepared)[8].mask.sum(1).tolist() == [1, 0, 1]
    assert spans.last(prepared).mask.int().argmax(1).tolist() == [8, 6, 8]
    assert spans.of_type(prepared, "text").mask.sum(1).tolist() == list(LENGTHS)
    runs = [row[3:5].tolist() for row in CLEAN["input_ids"]]
    subject = spans.find(prepared, runs)
    assert subject.mask.nonzero()[:, 1].tolist() == [3, 4] * 3
    with pytest.raises(ArgumentError, match="sample 0"):
        spans.find(prepared, [[64, 65]])
    both = spans.together([subject, spans.last(prepared)], "both")
    assert both.mask.sum(1).tolist() == [3, 3, 3]


def test_random_spans_are_as_large_and_elsewhere(model):
    prepared = model.prepare(CLEAN)
    subject = spans.find(prepared, [row[3:5].tolist() for row in CLEAN["input_ids"]])
    drawn = spans.random(subject, spans.real(prepared), draws=5, seed=1)
    assert len({tuple(s.mask.flatten().tolist()) for s in drawn}) > 1
    for span in drawn:
        assert span.mask.sum(1).tolist() == [2, 2, 2]
        assert not (span.mask & subject.mask).any() and not (span.mask & ~spans.real(prepared)).any()
    assert torch.equal(drawn[0].mask, spans.random(subject, spans.real(prepared), 1, seed=1)[0].mask)
    with pytest.raises(ArgumentError, match="rows to draw"):
        spans.random(subject, subject.mask, draws=1)


def test_noise_has_three_sigma_and_does_not_depend_on_its_neighbours(model):
    prepared = model.prepare(CLEAN)
    subject = spans.find(prepared, [row[2:5].tolist() for row in CLEAN["input_ids"]])
    noise = corruptions.Noise(subject, draws=40, seed=3).fit(model, prepared)
    embedded = model.run(prepared, capture=["text.embed"]).acts["text.embed"]
    assert noise.scale == pytest.approx(float(embedded[subject.mask].std()))
    corrupted = noise(model, prepared, [0, 1, 2])
    x = corrupted.edits["text.embed"](embedded.repeat(40, 1, 1)) - embedded.repeat(40, 1, 1)
    assert corrupted.inputs.batch_size == 120
    where = subject.mask.repeat(40, 1)
    assert float(x[where].std()) == pytest.approx(3 * noise.scale, rel=0.05)
    assert float(x[~where].abs().max()) == 0
    few = noise(model, inputs.some(prepared, [2]), [2])
    y = few.edits["text.embed"](embedded[2:].repeat(40, 1, 1)) - embedded[2:].repeat(40, 1, 1)
    torch.testing.assert_close(y, x.unflatten(0, (40, 3))[:, 2])
    shared = corruptions.Noise(subject, draws=2, shared=True).fit(model, prepared)(model, prepared, [0, 1, 2])
    z = shared.edits["text.embed"](torch.zeros(6, 9, 32))[subject.mask.repeat(2, 1)].unflatten(0, (2, 3, 3))
    torch.testing.assert_close(z[:, 0], z[:, 1])
    assert not torch.equal(z[0], z[1])


def test_replaced_tokens_are_as_many_and_others(model):
    prepared = model.prepare(CLEAN)
    runs = [row[2:4].tolist() for row in CLEAN["input_ids"]]
    subject = spans.find(prepared, runs)
    others = [[10, 11], [12, 13], [14, 15], [1, 2, 3], *runs]
    corrupted = corruptions.Replaced(subject, others, draws=4)(model, prepared, [0, 1, 2])
    new = corrupted.inputs.tensors["input_ids"][subject.mask.repeat(4, 1)].unflatten(0, (12, 2)).tolist()
    assert all(pair in others and pair != runs[i % 3] for i, pair in enumerate(new))
    behind = corrupted.inputs.tensors["input_ids"][:, 4:]
    assert torch.equal(behind, prepared.tensors["input_ids"][:, 4:].repeat(4, 1))
    assert corrupted.inputs.rows["text"][0, 2, 5] == new[0][0]
    with pytest.raises(ArgumentError, match="no other"):
        corruptions.Replaced(subject, [[1, 2, 3]])(model, prepared, [0, 1, 2])


def result(value, base, other, prompt):
    cells = [Cell("resid_pre", b, 0) for b in range(len(value))]
    samples = np.asarray(base, float)
    return TraceResult(
        "probability", "restore", "other", "text", "noise", cells, ["subject"], np.asarray(value, float),
        samples, np.asarray(other, float), np.asarray(prompt), np.zeros(len(samples), int),
    )  # fmt: skip


def test_recovered_is_a_ratio_of_means():
    r = result([[0.1, 0.2], [0.5, 0.6]], [0.1, 0.2], [0.9, 0.2], [0, 1])
    np.testing.assert_allclose(r.recovered(), [0.0, 1.0])
    np.testing.assert_allclose(r.maps("resid_pre", "effect"), [[0.0], [0.4]])
    with pytest.raises(ArgumentError, match="resid_pre"):
        r.maps("mlp_out")


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Prompts with effects of their own, and draws of noise within: 95% intervals of made data."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        own = generator.normal(0.4, 0.3, 24).repeat(4)
        effects = own + generator.normal(0, 0.2, 96)
        r = result([effects], np.zeros(96), np.ones(96), np.arange(24).repeat(4))
        (interval,) = r.interval(draws=200, seed=trial)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.87 <= covered / 150 <= 0.99


def test_a_result_prints_plots_and_saves(tmp_path):
    r = result([[0.1, 0.2], [0.5, 0.6]], [0.1, 0.2], [0.9, 0.8], [0, 1])
    assert "largest effects" in str(r) and "resid_pre 1" in str(r)
    frame = r.to_pandas()
    assert len(frame) == 2 and {"recovered", "effect", "value", "span"} <= set(frame)
    saved = json.loads(r.save(tmp_path / "r.json").read_text())
    assert saved["cells"][1]["block"] == 1 and saved["spans"] == ["subject"]
    axes = r.plot()
    assert axes.get_ylabel() == "block"
