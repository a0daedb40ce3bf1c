"""Whole descriptions of stores whose units follow known words."""

import json

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.describe import DescribeConfig, Judged, describe, run, scores
from mmxai.methods.describe.measures import pearson
from mmxai.store import open_store
from mmxai.store.select import split_of
from tests.methods.describe.stores import CONSTANT, NOISE, SITE, WORDS, judge, make, pictures_of

SCORES = ("soft_wpmi", "wpmi", "cosine", "cosine_cubed", "rank_reorder")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    judged = judge()
    x = pictures_of(judged)
    path = tmp_path_factory.mktemp("run") / "acts.zarr"
    make(path, x)
    with open_store(path) as store:
        yield store, judged, x


def config(score="soft_wpmi", **options):
    if score.endswith("wpmi"):
        options = {"top": 30, "temperature": 10} | options
    return DescribeConfig(**({"score": score, "null": 400} | options))


@pytest.fixture(scope="module")
def found(known):
    return describe(known[0], known[1], config())


def test_units_that_follow_words_are_called_so(found):
    one = found.sites[SITE]
    assert one.labels[:6] == list(WORDS[:6]) and one.labels[7] == "word 9"
    assert one.how == "class token" and one.kind == "neuron"
    assert one.named()[[0, 1, 2, 3, 4, 5, 7]].all() and one.named().sum() <= 10
    assert (one.correlation[:6, 0] > 0.8).all() and one.falls()[:6].all()
    assert one.to_pandas().columns[:4].tolist() == ["layer", "unit", "description", "similarity"]


def test_noise_is_as_the_null_says(found):
    """Units at random score as permuted ones do, and their labels tell nothing on other pictures."""
    one = found.sites[SITE]
    score, correlation = (p[NOISE] for p in one.beaten())
    assert 0.2 < score.mean() < 0.8 and 0.2 < correlation.mean() < 0.8
    assert abs(np.nanmean(one.null_correlation)) < 0.02 and one.named()[NOISE].sum() <= 2


@pytest.mark.parametrize("score", ["wpmi", "cosine", "cosine_cubed"])
def test_other_scores(known, score):
    one = describe(known[0], known[1], config(score)).sites[SITE]
    assert one.labels[:6] == list(WORDS[:6])
    assert (one.beaten()[0][:6] < 0.05).all() and 0.2 < one.beaten()[0][NOISE].mean() < 0.8
    assert one.alike == (score == "wpmi") and len(one.null) >= (17 if score == "wpmi" else 20)


def test_figures_are_those_of_the_parts(known, found):
    """Words by the score of the chosen pictures alone, correlations on the others, the highest pictures."""
    _, judged, x = known
    one = found.sites[SITE]
    apart = split_of(np.arange(len(x)), (0.8, 0.2, 0)) == 1
    assert (one.chosen, one.scored) == ((~apart).sum(), apart.sum()) and 50 < apart.sum() < 110
    similar = judged.images @ judged.texts.T
    live = np.arange(24) != CONSTANT
    whole = scores.soft_wpmi(similar[~apart].contiguous(), x[~apart][:, live].contiguous(), top=30)
    best = whole.topk(5)
    torch.testing.assert_close(torch.from_numpy(one.score[live]), best.values, atol=1e-4, rtol=1e-4)
    assert (one.index[live, 0] == best.indices[:, 0].numpy()).all()
    for r in range(5):
        expected = pearson(x[apart][:, live], similar[apart][:, one.index[live, r]])
        np.testing.assert_allclose(one.correlation[live, r], expected, atol=1e-5)
    assert (one.top_samples[:, 0][live] == x.argmax(0).numpy()[live]).all()
    assert (one.fired == (x[~apart] > 0).sum(0).numpy()).all()


def test_a_constant_unit_has_no_word(found):
    one = found.sites[SITE]
    assert one.constant.nonzero()[0].tolist() == [CONSTANT] and one.labels[CONSTANT] == ""
    assert np.isnan(one.correlation[CONSTANT]).all() and np.isnan(one.beaten()[0][CONSTANT])
    assert not one.named()[CONSTANT] and np.isnan(one.spoilt["share"][CONSTANT])


@pytest.mark.parametrize("score", SCORES)
def test_groups_of_units_change_nothing(known, score, monkeypatch):
    """Little memory: similarities are computed again, units go in groups, words in blocks."""
    store, judged, _ = known
    options = {"null": 30, "draws": 2}
    whole = describe(store, judged, config(score, **options)).sites[SITE]
    monkeypatch.setattr(scores, "BLOCK_VALUES", 0)
    monkeypatch.setattr(scores, "LEAST_WORDS", 7)
    seen = []
    monkeypatch.setattr(run, "ranges", lambda *a: seen.append(ranges(*a)) or seen[-1])
    parts = describe(store, judged, config(score, memory=1e-4, **options)).sites[SITE]
    assert len(seen[0]) > 3
    assert (whole.index[:, 0] == parts.index[:, 0]).all()
    np.testing.assert_allclose(whole.score, parts.score, atol=2e-4)
    np.testing.assert_allclose(whole.null, parts.null, atol=2e-4)
    np.testing.assert_allclose(whole.null_correlation, parts.null_correlation, atol=1e-5)
    for name in ("share", "missing correlation", "extra f1"):
        np.testing.assert_allclose(whole.spoilt[name], parts.spoilt[name], atol=1e-6)


def ranges(*args):
    from mmxai.methods.describe.pooled import ranges as own

    return list(own(*args))


def test_results_print_and_save(found, tmp_path):
    text = repr(found)
    assert "word 3" in text and "1 are constant" in text and "held out" in text
    saved = json.loads(found.save(tmp_path / "d.json").read_text())["sites"][SITE]
    assert saved["units"][2]["words"][0] == "word 2" and saved["units"][CONSTANT]["words"] == []
    assert saved["named"] == found.sites[SITE].named().sum()
    assert found.plot().get_ylabel() and found.sites[SITE].plot().get_xlabel()
    tests = found.sites[SITE].tests(np.arange(24) < 6).set_index("measure")
    assert (tests.loc[["correlation", "cosine", "f1", "iou", "auprc"]].falls_extra == 1).all()
    assert tests.falls_extra["recall"] == 0
    assert len(found.to_pandas()) == 24


def test_nothing_held_out_no_null_no_draws(known):
    one = describe(known[0], known[1], config(held_out=0.0, null=0, draws=0)).sites[SITE]
    assert one.chosen == one.scored == 400 and not one.null.size and one.spoilt == {}
    assert np.isnan(one.beaten()[0]).all() and not one.named().any() and not len(one.tests())
    assert "the pictures words were chosen on" in repr(one) and one.labels[0] == "word 0"
    assert "missing" not in one.to_pandas()


def test_it_warns_of_a_judge_under_study_and_of_words_it_cannot_tell(known):
    store, judged, _ = known
    texts = judged.texts.clone()
    texts[50:] = texts[0]
    same = Judged(judged.samples, judged.images, judged.words, texts, "clip", studied=True)
    with pytest.warns(UserWarning, match="model under study"):
        notes = describe(store, same, config(null=0, draws=0)).notes
    assert "by construction" in notes[0] and "cannot tell 10 of the 60 words" in notes[1]


def test_repeats_are_the_same(known, found):
    again = describe(known[0], known[1], config())
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"score": "best"}, "score='best'"),
        ({"score": "cosine", "top": 5}, "cosine has no such option"),
        ({"pool": "cls", "tokens": "patch"}, "none with pool=cls"),
        ({"held_out": 1.0}, "below 1"),
        ({"candidates": 0}, "at least 1"),
        ({"memory": 0.0}, "more than 0 GiB"),
        ({"sites": ()}, "at least one"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ArgumentError, match=said):
        DescribeConfig(**options)


def test_refuses(known):
    store, judged, _ = known
    with pytest.raises(ArgumentError, match="400 best of 3"):
        describe(store, judged, config(top=400))
    with pytest.raises(ArgumentError, match="samples that the judge has not seen"):
        describe(store, Judged(np.arange(100), judged.images[:100], WORDS, judged.texts), config())
    with pytest.raises(ArgumentError, match="pictures to choose words on and 2"):
        describe(store, judged, config(held_out=0.004))
    with pytest.raises(ArgumentError, match=r"of 400 samples"):
        Judged(np.arange(400), judged.images[:10], WORDS, judged.texts)
    with pytest.raises(ArgumentError, match="do not ascend"):
        Judged(np.arange(400)[::-1].copy(), judged.images, WORDS, judged.texts)


def test_a_unit_that_is_constant_on_the_pictures_held_out(known, tmp_path):
    _, judged, x = known
    x = x.clone()
    x[split_of(np.arange(len(x)), (0.8, 0.2, 0)) == 1, 2] = 0
    make(tmp_path / "a", x)
    with open_store(tmp_path / "a") as store:
        one = describe(store, judged, config()).sites[SITE]
    assert one.labels[2] == "word 2" and not one.constant[2]
    assert np.isnan(one.correlation[2]).all() and not one.named()[2] and one.labels[3] == "word 3"


def test_latents_are_units_like_any(known, tmp_path):
    """Codes of a topk store, by their maximum over patches: the words that the same values get densely."""
    _, judged, x = known
    codes = x.clamp(min=0)
    made = []
    for name, options in (("dense", {}), ("topk", {"dtype": "topk", "topk": 24})):
        make(tmp_path / name, -codes, site="vision.1.sae", flat=True, **options)
        with open_store(tmp_path / name) as store:
            made.append(describe(store, judged, config(pool="max", null=0, draws=0)).sites["vision.1.sae"])
    dense, sparse = made
    assert sparse.kind == "latent" and sparse.labels[:6] == list(WORDS[:6])
    assert np.mean(np.array(dense.labels) == np.array(sparse.labels)) > 0.9  # bfloat16 moves some pictures
    assert (abs(sparse.fired - dense.fired) <= 1).all() and sparse.fired[0] < sparse.chosen


def test_heads_are_those_of_z_sites_alone(known, tmp_path):
    _, judged, x = known
    make(tmp_path / "z", x, site="vision.1.z")
    make(tmp_path / "mlp", x)
    options = dict(top=20, null=0, draws=0, heads=8)
    for path, site, units in (("z", "vision.1.z", 8), ("mlp", SITE, x.shape[1])):
        with open_store(tmp_path / path) as store:
            found = describe(store, judged, DescribeConfig(sites=(site,), **options))
        assert found.sites[site].units == units
