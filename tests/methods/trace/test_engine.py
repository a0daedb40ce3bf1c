"""The quick engine against one forward a cell, for every kind of attention, site, metric and replacement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, PlanMismatchError, UnknownSiteError
from mmxai.methods.trace import corruptions, metrics, spans
from mmxai.methods.trace.studies import study, trace
from mmxai.methods.trace.types import Cell
from mmxai.models import load_model
from mmxai.models.metrics import next_token_loss

from .conftest import gpt2, llama, prompts, shaken

CLEAN, TWIN = prompts()
ONE = metrics.logit_difference([3, 4, 5], [6])
STREAM = ("resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_post", "q", "k", "v", "z")


def both(model, corrupted, **options):
    quick = study(model, CLEAN, corrupted, **options).run()
    slow = study(model, CLEAN, corrupted, **options).run("cellwise")
    np.testing.assert_allclose(quick.value, slow.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quick.base, slow.base, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quick.other, slow.other, rtol=1e-5, atol=1e-5)
    assert np.abs(slow.effect).max() > 1e-3
    return quick, slow


def subject(inputs):
    mask = torch.zeros(inputs.rows["text"].shape[:2], dtype=torch.bool)
    mask[:, 2:4] = True
    return spans.chosen(mask, "subject")


def test_every_site_of_every_family(family):
    kinds = [k for k in STREAM if f"text.0.{k}" in family.sites()]
    quick, slow = both(family, TWIN, metric=ONE, kinds=kinds)
    # 7 rows that can differ, and the clean and the corrupted run.
    assert quick.forwards == 9 and slow.forwards == len(quick.cells) + 2
    assert set(quick.how) == {"batched", "not run"}


def test_windows_and_heads(family):
    both(family, TWIN, metric=metrics.probability([3]), kinds=("mlp_out", "attn_out"), window=2)
    heads, _ = both(family, TWIN, metric=ONE, kinds=("z", "k"), heads=True)
    assert {c.heads for c in heads.cells if c.kind == "z"} == {(0,), (1,), (2,), (3,)}


@pytest.mark.parametrize("replace", ["zero", "mean", "resample", "noise"])
def test_replacements(model, replace):
    both(model, None, metric=metrics.kl(), kinds=("mlp_out", "z"), mode="patch", replace=replace)


def test_noise_and_several_tokens(model):
    prepared = model.prepare(CLEAN)
    noise = corruptions.Noise(subject(prepared), draws=3, seed=5)
    several = metrics.logit_difference([[3, 7], [4], [5, 6, 7]], [[3, 8], [4, 5], [9]])
    result, _ = both(model, noise, metric=several, kinds=("resid_post",))
    assert result.value.shape == (27, 9)
    assert result.prompt.tolist() == [0, 1, 2] * 3 and result.draw.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    both(model, noise, metric=metrics.probability([[3, 7], [4], [5, 6, 7]]), kinds=("attn_out",))


def test_patching_the_clean_run(model):
    both(model, TWIN, metric=metrics.kl(), kinds=("resid_mid", "embed"), mode="patch")
    prepared = model.prepare(CLEAN)
    noise = corruptions.Noise(subject(prepared), draws=2)
    both(model, noise, metric=ONE, kinds=("resid_pre",), mode="patch")


def test_any_metric_of_a_run(model):
    """Of all rows, so that the whole output is made."""

    def loss(run, inputs):
        each = next_token_loss(run, inputs)
        mask = inputs.tensors["attention_mask"][:, 1:].bool()
        out = torch.zeros(mask.shape)
        out[mask] = each
        return out.sum(1)

    result, _ = both(model, TWIN, metric=loss, kinds=("resid_pre", "mlp_out"))
    assert result.metric == "loss" or result.metric == "function"


def test_a_metric_of_a_block_runs_whole_forwards_and_says_so(model):
    def norm(run, inputs):
        return run.acts["text.2.mlp_out"][:, -1].norm(dim=1)

    norm.needs = ("text.2.mlp_out",)
    result, _ = both(model, TWIN, metric=norm, kinds=("mlp_out",))
    (reason,) = [text for way, text in result.how.items() if way.startswith("a forward a cell")]
    assert "text.2.mlp_out" in reason


def test_restoring_everything_gives_the_clean_run(model):
    whole = spans.of_type(model.prepare(CLEAN), "text", "special")
    result = trace(model, CLEAN, TWIN, metric=ONE, kinds=("resid_pre",), spans=[whole])
    np.testing.assert_allclose(result.value, np.tile(result.other, (3, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.recovered(), 1.0, atol=1e-3)


def test_the_last_row_of_the_last_block_decides(model):
    last = spans.last(model.prepare(CLEAN))
    result = trace(model, CLEAN, TWIN, metric=ONE, kinds=("resid_post",), spans=[last], blocks=[2])
    np.testing.assert_allclose(result.value[0], result.other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [1, 2])
def test_attention_that_is_blocked(attention, window):
    torch.manual_seed(0)
    model = load_model(shaken(llama(attention)))
    prepared = model.prepare(CLEAN)
    everything = spans.of_type(prepared, "text", "special")
    pairs = [
        spans.attention(spans.last(prepared), subject(prepared)),
        spans.attention(everything, subject(prepared), "all to subject"),
    ]
    options = dict(metric=ONE, kinds=("attention",), spans=pairs, mode="patch", window=window)
    both(model, None, **options)
    single, _ = both(model, None, **{**options, "spans": pairs[:1]}, heads=True)
    assert len(single.cells) == (4 - window) * 4


def test_attention_is_blocked_of_rows_that_the_corruption_left_alone(model):
    """A corrupted run beside it says what share is lost, and nothing of where attention may be blocked."""
    prepared = model.prepare(CLEAN)
    first, second, *_ = spans.positions(prepared)
    everything = spans.chosen(spans.real(prepared) & ~first.mask, "later")
    pairs = [spans.attention(second, first), spans.attention(everything, first)]
    options = dict(metric=ONE, kinds=("attention",), spans=pairs, mode="patch")
    quick, _ = both(model, TWIN, **options)
    alone = trace(model, CLEAN, None, **options)
    np.testing.assert_allclose(quick.effect, alone.effect, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", ["text.1.resid_post", "text.1.mlp_out", "text.1.resid_pre"])
def test_noise_within_the_blocks(model, site):
    """Cells in blocks before it resume where it has not happened yet."""
    everything = spans.chosen(spans.real(model.prepare(CLEAN)), "all")
    noise = corruptions.Noise(everything, draws=2, site=site)
    both(model, noise, metric=metrics.kl(), kinds=("resid_post", "mlp_out"))


def test_one_sample_has_no_interval(model):
    clean, twin = ({k: v[:1] for k, v in x.items()} for x in (CLEAN, TWIN))
    found = trace(model, clean, twin, metric=ONE).interval([2])[0]
    assert np.isnan([found.low, found.high]).all() and "[" not in str(found)


def test_blocked_attention_is_what_it_says(model):
    """Against the weights themselves set to zero and shared out again."""
    prepared = model.prepare(CLEAN)
    last, keys = spans.last(prepared), subject(prepared)
    result = trace(
        model, CLEAN, metric=ONE, cells=[Cell("attention", 1, 0, 1, (2,))],
        spans=[spans.attention(last, keys)], mode="patch",
    )  # fmt: skip
    model.set_length("text", 9)

    def blocked(pattern):
        weights = pattern.unflatten(-1, (4, 9)).clone()
        where = last.mask[:, :, None] & keys.mask[:, None, :]
        weights[:, :, 2] = weights[:, :, 2].masked_fill(where, 0)
        weights[:, :, 2] /= weights[:, :, 2].sum(-1, keepdim=True).clamp(min=1e-9)
        return weights.flatten(-2)

    run = model.run(prepared, edit={"text.1.pattern": blocked})
    bound = ONE.bind(model, prepared)
    np.testing.assert_allclose(result.value[0], bound(run, prepared).numpy(), rtol=1e-4, atol=1e-5)


def test_eager_and_sdpa_give_the_same():
    values = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = load_model(shaken(gpt2(attention)))
        prepared = model.prepare(CLEAN)
        pair = spans.attention(spans.last(prepared), subject(prepared))
        cut = trace(model, CLEAN, metric=ONE, kinds=("attention",), spans=[pair], mode="patch", heads=True)
        restored = trace(model, CLEAN, TWIN, metric=ONE, kinds=("z",))
        values.append(np.concatenate([cut.value, restored.value]))
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)


def test_a_compiled_model_gives_the_same():
    torch.manual_seed(0)
    module = shaken(llama())
    plain = trace(load_model(module), CLEAN, TWIN, metric=ONE, kinds=("resid_pre", "z"))
    module.model.layers[1].compile(backend="eager")
    module(**CLEAN)  # compiled by now
    again = load_model(torch.compile(module, backend="eager"))
    both(again, TWIN, metric=ONE, kinds=("resid_pre", "z"))
    result = trace(again, CLEAN, TWIN, metric=ONE, kinds=("resid_pre", "z"))
    np.testing.assert_allclose(result.value, plain.value, rtol=1e-5, atol=1e-5)


def test_half_precision_agrees_with_itself():
    torch.manual_seed(0)
    model = load_model(shaken(llama()).bfloat16())
    quick, slow = (
        study(model, CLEAN, TWIN, metric=ONE, kinds=("resid_pre", "mlp_out")).run(method)
        for method in ("quick", "cellwise")
    )
    scale = np.abs(slow.effect).max()
    assert np.abs(quick.value - slow.value).max() < 0.05 * scale


def test_a_small_budget_gives_the_same_in_more_batches(model):
    large = study(model, CLEAN, TWIN, metric=ONE)
    small = study(model, CLEAN, TWIN, metric=ONE, budget=120_000)
    assert len(small.chunks) > 1
    a, b = large.run(), small.run()
    np.testing.assert_allclose(a.value, b.value, rtol=1e-5, atol=1e-5)
    assert b.forwards > a.forwards
    with pytest.raises(ArgumentError, match="budget"):
        study(model, CLEAN, TWIN, metric=ONE, budget=1000).run()


def test_what_is_predicted_is_what_runs(model):
    planned = study(model, CLEAN, TWIN, metric=ONE, kinds=("resid_pre", "mlp_out"))
    predicted = planned.predict()
    seen = []
    result = planned.run(progress=lambda done, total: seen.append((done, total)))
    assert result.forwards == predicted.forwards + 2
    assert predicted.cells == len(result.cells) == 54 and predicted.samples == 3
    assert 0.15 < predicted.share < 0.4 and predicted.seconds > 0 and "54 cells" in str(predicted)
    assert seen[-1] == (54, 54) and [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_a_study_that_was_interrupted_goes_on(model, tmp_path):
    options = dict(metric=ONE, kinds=("resid_pre", "mlp_out"), budget=200_000)
    whole = study(model, CLEAN, TWIN, **options).run()
    seen = []

    def interrupt(done, total):
        seen.append(done)
        if done > total * 0.6:
            raise KeyboardInterrupt

    first = study(model, CLEAN, TWIN, **options)
    assert len(first.chunks) > 1
    with pytest.raises(KeyboardInterrupt):
        first.run(progress=interrupt, keep=tmp_path / "kept")
    second = study(model, CLEAN, TWIN, **options).run(keep=tmp_path / "kept")
    np.testing.assert_allclose(second.value, whole.value, rtol=1e-5, atol=1e-5)
    assert second.forwards < whole.forwards and "kept" in second.how
    third = study(model, CLEAN, TWIN, **options).run(keep=tmp_path / "kept")
    assert third.forwards == 0 and np.array_equal(third.value, second.value)
    with pytest.raises(PlanMismatchError, match="metric"):
        study(model, CLEAN, TWIN, **{**options, "metric": metrics.kl()}).run(keep=tmp_path / "kept")
    with mmxai.open_store(tmp_path / "kept" / "clean.zarr") as clean:
        assert len(clean["text.1.mlp_out"]) == 9 + 7 + 9
        states = model.run(CLEAN, capture=["text.1.mlp_out"]).acts["text.1.mlp_out"]
        torch.testing.assert_close(clean["text.1.mlp_out"][0:9], states[0], rtol=1e-5, atol=1e-6)
    with mmxai.open_store(tmp_path / "kept" / "corrupted.zarr") as corrupted:
        assert set(corrupted.sites) == {*(f"text.{b}.resid_pre" for b in range(3)), "text.2.resid_post"}
        assert [s.key for s in corrupted.samples] == ["0.0", "1.0", "2.0"]


def test_kept_values_of_another_model_are_refused(model, tmp_path):
    study(model, CLEAN, TWIN, metric=ONE).run(keep=tmp_path / "kept")
    torch.manual_seed(1)
    other = load_model(shaken(llama()))
    with pytest.raises(PlanMismatchError, match="model"):
        study(other, CLEAN, TWIN, metric=ONE).run(keep=tmp_path / "kept")


def test_kept_values_of_another_vector_are_refused(model, tmp_path):
    class Along:
        needs = ()

        def __init__(self, vector):
            self.vector = vector

        def __call__(self, run, inputs):
            return run.out.logits[:, -1] @ self.vector

    one, two = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).unbind()
    options = dict(kinds=("mlp_out",), blocks=[1])
    study(model, CLEAN, TWIN, metric=Along(one), **options).run(keep=tmp_path / "kept")
    study(model, CLEAN, TWIN, metric=Along(one.clone()), **options).run(keep=tmp_path / "kept")
    with pytest.raises(PlanMismatchError, match="metric"):
        study(model, CLEAN, TWIN, metric=Along(two), **options).run(keep=tmp_path / "kept")


def test_places_that_do_not_exist(model):
    with pytest.raises(UnknownSiteError, match="mlp_out"):
        study(model, CLEAN, TWIN, metric=ONE, kinds=("mlp_uot",))
    with pytest.raises(UnknownSiteError, match=r"text\.2\.mlp_out"):
        study(model, CLEAN, TWIN, metric=ONE, cells=[Cell("mlp_out", 2, 0, 2)])
    pair = spans.attention(spans.last(model.prepare(CLEAN)), subject(model.prepare(CLEAN)))
    with pytest.raises(ArgumentError, match="expected 0 to 2"):
        study(model, CLEAN, metric=ONE, cells=[Cell("attention", 2, 0, 2)], spans=[pair], mode="patch")
    with pytest.raises(ArgumentError, match="window"):
        study(model, CLEAN, TWIN, metric=ONE, window=4)
    with pytest.raises(ArgumentError, match="0 to 1"):
        study(model, CLEAN, TWIN, metric=ONE, cells=[Cell("k", 0, 0, 1, (3,))])
    with pytest.raises(ArgumentError, match="heads"):
        study(model, CLEAN, TWIN, metric=ONE, cells=[Cell("mlp_out", 0, 0, 1, (0,))])
    wrong = spans.chosen(torch.ones(3, 5, dtype=torch.bool), "five")
    with pytest.raises(ArgumentError, match=r"\(3, 5\)"):
        study(model, CLEAN, TWIN, metric=ONE, spans=[wrong])
    with pytest.raises(ArgumentError, match="row space"):
        spans.positions(model.prepare(CLEAN), "vision")


def test_what_does_not_fit_together(model):
    with pytest.raises(ArgumentError, match="restore"):
        study(model, CLEAN, metric=ONE)
    with pytest.raises(ArgumentError, match="other"):
        study(model, CLEAN, metric=ONE, mode="patch")
    pair = spans.attention(spans.last(model.prepare(CLEAN)), subject(model.prepare(CLEAN)))
    with pytest.raises(ArgumentError, match="patch"):
        study(model, CLEAN, TWIN, metric=ONE, kinds=("attention",), spans=[pair])
    with pytest.raises(ArgumentError, match="keys"):
        study(model, CLEAN, metric=ONE, kinds=("attention",), mode="patch")
    everything = spans.of_type(model.prepare(CLEAN), "text", "special")
    blind = spans.attention(everything, everything)
    with pytest.raises(ArgumentError, match="every key is blocked"):
        trace(model, CLEAN, metric=ONE, kinds=("attention",), spans=[blind], mode="patch")
    longer = {"input_ids": torch.randint(3, 64, (3, 10))}
    with pytest.raises(ArgumentError, match="counterfactual"):
        trace(model, CLEAN, longer, metric=ONE)
