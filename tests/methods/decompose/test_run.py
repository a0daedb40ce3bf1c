"""The whole job on rows whose directions and names are known; and each figure by hand."""

import json

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, DictionaryFormatError, NonFiniteError, SelectionError
from mmxai.labels import Truth
from mmxai.labels.concepts import caption_truth
from mmxai.linalg.overlap import matched_cosine
from mmxai.methods.decompose import (
    Dictionary,
    Entry,
    FitConfig,
    compare,
    decompose,
    encode_store,
    fit_dictionary,
    load_dictionary,
)
from mmxai.methods.decompose.config import KINDS
from mmxai.methods.decompose.names import activation_names, sample_extremes
from mmxai.methods.decompose.stream import RowStream
from mmxai.methods.sae import SAE, SAESpec
from mmxai.store.select import split_of
from mmxai.store.units import Units
from tests.methods.decompose.stores import PER, SITE, UNITS, WIDTH, make_store, planted

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    store, directions, much = make_store(tmp_path_factory.mktemp("stores") / "acts.zarr")
    with store:
        yield store, directions, much


@pytest.fixture(scope="module")
def report(held, tmp_path_factory):
    store, _, _ = held
    out = tmp_path_factory.mktemp("out")
    made = decompose(
        store, SITE, ("pca", "ica", "seminmf", "kmeans", "spherical"), units=UNITS, tokens="patch",
        truth=caption_truth(store), seeds=1, out=out, tol=1e-6, centre=False,
    )  # fmt: skip
    return made, out


def test_planted_directions_come_out(report, held):
    made, _ = report
    ica = made.dictionaries["ica"]
    assert matched_cosine(ica.directions, held[1]) > 0.98  # signs too: amounts are skewed to the positive
    # Rows lie off the origin by 1 in every value, which semi-NMF has to explain as well.
    assert matched_cosine(made.dictionaries["seminmf"].directions, held[1]) > 0.8
    assert made.dictionaries["pca"].facts["explained"][-1] > 0.1


def test_the_table_has_every_figure(report):
    made, out = report
    lines = made.comparison.lines
    assert lines["pca"].fvu < 1e-6 and lines["ica"].fvu < 1e-6  # UNITS directions are all there is
    assert lines["kmeans"].l0 == 1 and lines["spherical"].l0 <= 1 and lines["seminmf"].l0 <= UNITS
    assert lines["kmeans"].hoyer == 1 and lines["ica"].hoyer < 0.9
    assert lines["ica"].stability > 0.99 and lines["ica"].shared == 1 and lines["ica"].matched > 0.99
    assert lines["ica"].chance < 0.7
    assert lines["pca"].stability is None and "no seed" in lines["pca"].note
    assert lines["ica"].kept[1] > lines["ica"].kept[2] > lines["ica"].kept[4] > lines["ica"].fvu
    assert lines["ica"].kept[1] < lines["pca"].kept[1]  # one source explains more than one axis
    frame = made.to_pandas()
    assert list(frame.index) == list(lines) and frame.loc["ica", "fvu_at_2"] == lines["ica"].kept[2]
    assert "stability" in made.summary() and "ica" in str(made)
    assert json.loads((out / "decompose.json").read_text())["comparison"]["lines"]["ica"]["units"] == UNITS
    assert made.plot().get_xlabel()


def test_figures_are_those_by_hand(held):
    store, _, _ = held
    made = fit_dictionary(store, SITE, "pca", units=3, tokens="patch")
    x = torch.cat(list(RowStream(store, SITE, "patch", "test")()))
    line = compare({"a": Entry(made, made.directions)}, lambda: iter(x.split(37)), SITE).lines["a"]
    codes = made.encode_dense(x)
    spread = (x - x.mean(0)).square().sum()
    assert line.fvu == pytest.approx(float((made.decode(codes) - x).square().sum() / spread), rel=1e-4)
    largest = codes.abs().argmax(1, keepdim=True)
    only = torch.zeros_like(codes).scatter_(1, largest, codes.gather(1, largest))
    assert line.kept[1] == pytest.approx(float((made.decode(only) - x).square().sum() / spread), rel=1e-4)
    hoyer = (3**0.5 - codes.abs().sum(1) / codes.norm(dim=1)) / (3**0.5 - 1)
    assert line.hoyer == pytest.approx(float(hoyer.mean()), rel=1e-4) and line.l0 == 3 and line.dead == 0


def test_an_sae_is_in_the_same_table(held):
    store, planted_directions, _ = held
    spec = SAESpec("jumprelu", UNITS, (SITE,), (WIDTH,))
    sae = SAE(
        spec, W_enc=planted_directions, b_enc=torch.zeros(UNITS), W_dec=planted_directions,
        b_dec=torch.ones(WIDTH), threshold=torch.full((UNITS,), 1e-3),
    )  # fmt: skip
    made = decompose(
        store, SITE, ("pca",), units=3, tokens="patch", seeds=0, others={"sae": Entry(sae, sae.W_dec)}
    )
    line = made.comparison.lines["sae"]
    assert line.fvu < 1e-6 and line.l0 == pytest.approx(0.3 * UNITS, abs=0.25) and line.stability is None
    with pytest.raises(ArgumentError, match="expected different names"):
        decompose(store, SITE, ("pca",), others={"pca": Entry(sae, sae.W_dec)})


def test_units_are_named_by_what_drives_them(report, held):
    made, _ = report
    nearest = (held[1] @ made.dictionaries["ica"].directions.T).argmax(0)
    high, low = made.names["ica"]
    assert [high.name_of(u).text for u in range(UNITS)] == [WORDS[i] for i in nearest]
    assert all(high.names[u][0].auc > 0.95 and high.names[u][0].beaten == 0 for u in range(UNITS))
    assert low.end == "-" and sum(low.name_of(u) is not None for u in range(UNITS)) < UNITS
    assert len(made.names["kmeans"]) == 1
    assert set(made.notes("ica")) == set(range(UNITS))


def test_noise_has_no_names(held):
    _, _, much = held
    rng = np.random.default_rng(0)
    truth = Truth.of_table(WORDS, much.numpy())
    found = activation_names(rng.normal(size=(len(much), 200)), truth, np.arange(len(much)))
    named = sum(found.name_of(u) is not None for u in range(200))
    assert named < 25  # 5% are expected
    assert np.mean([n[0].beaten for n in found.names]) == pytest.approx(0.5, abs=0.1)
    assert (
        len(found.to_pandas()) == 200 * 5 and "of 200 units" in found.summary() and found.plot().get_xlabel()
    )
    with pytest.raises(ArgumentError, match="none of which at least 5 samples have"):
        activation_names(np.zeros((4, 2)), truth, np.arange(4))


def test_auc_is_sklearns(held):
    from sklearn.metrics import roc_auc_score

    _, _, much = held
    values = np.random.default_rng(1).integers(0, 5, (len(much), 2)) + much.numpy()[:, :2]
    found = activation_names(values, Truth.of_table(WORDS, much.numpy()), np.arange(len(much)))
    for unit in (0, 1):
        best = found.names[unit][0]
        assert best.text == WORDS[unit]
        assert best.auc == pytest.approx(roc_auc_score(much[:, unit], values[:, unit]))


def test_extremes_are_of_whole_samples(held):
    store, _, _ = held
    made = fit_dictionary(store, SITE, "pca", units=2)
    samples, found = sample_extremes(store, SITE, {"pca": made}, samples=40, seed=3)
    assert len(samples) == 40
    x = store[SITE][:].float()
    codes = made.encode_dense(x).view(-1, PER, 2)
    np.testing.assert_allclose(found["pca"][0], codes.amax(1)[samples], atol=1e-5)
    np.testing.assert_allclose(found["pca"][1], codes.amin(1)[samples], atol=1e-5)
    everyone, _ = sample_extremes(store, SITE, {"pca": made})
    assert len(everyone) == 300


def test_codes_become_a_store(report, held, tmp_path):
    made, _ = report
    store, _, _ = held
    path = encode_store(
        [made.dictionaries["pca"], made.dictionaries["kmeans"]], store, tmp_path / "codes.zarr"
    )
    encode_store([made.dictionaries["pca"], made.dictionaries["kmeans"]], store, path)  # finds all parts made
    with mmxai.open_store(path) as codes:
        assert codes.sites == {f"{SITE}.pca": UNITS, f"{SITE}.kmeans": UNITS}
        own = store[SITE].rows.read().table
        kept = own[:, 4] == 1
        assert torch.equal(codes[f"{SITE}.pca"].rows.read().table, own[kept])
        expected = made.dictionaries["pca"].encode_dense(store[SITE][:][kept])
        torch.testing.assert_close(codes[f"{SITE}.pca"][:], expected.bfloat16())
        assert codes.samples[3].text == store.samples[3].text
        assert Units(codes, f"{SITE}.pca").kind == "latent"
        stats = codes.stats[f"{SITE}.pca"]
        torch.testing.assert_close(stats.topk_values[:, 0], expected.bfloat16().float().amax(0))
        torch.testing.assert_close(stats.bottom_values[:, 0], expected.bfloat16().float().amin(0))
        top = codes[f"{SITE}.pca"].rows.gather(stats.topk_rows[0]).sample.tolist()
        assert len(set(top)) == len(top) == 16
    with pytest.raises(ArgumentError, match="each kind once"):
        encode_store([made.dictionaries["pca"]] * 2, store, tmp_path / "two.zarr")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_saves_and_streams(kind, held, tmp_path):
    """A sample smaller than the rows, so that passes over the store are taken."""
    store, _, _ = held
    made = fit_dictionary(store, SITE, kind, units=4, sample=200, negative="clip", passes=3, tokens="patch")
    if kind != "pca":
        assert made.facts["passes"] >= 1 and made.facts["rows"] > 200
    again = load_dictionary(made.save(tmp_path / kind))
    x = store[SITE][:50]
    assert torch.equal(again.encode_dense(x), made.encode_dense(x)) and again.facts == made.facts
    assert (again.kind, again.site, again.tokens, again.signed) == (kind, SITE, "patch", made.signed)
    assert again.decode(again.encode_dense(x)).shape == x.shape and str(again.units) in repr(again)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_any_dtype_layout_and_number(kind, held):
    store, _, _ = held
    made = fit_dictionary(store, SITE, kind, units=4, negative="clip", passes=1, warm=5, tokens="patch")
    x = store[SITE][:40]
    expected = made.encode_dense(x)
    turned = x.T.contiguous().T
    assert not turned.is_contiguous()
    torch.testing.assert_close(made.encode_dense(turned), expected)
    torch.testing.assert_close(made.encode_dense(x.double()), expected)
    torch.testing.assert_close(made.encode_dense(x.bfloat16()), made.encode_dense(x.bfloat16().float()))
    assert torch.equal(made.encode_dense(x.clone().requires_grad_()), expected)
    none = made.encode_dense(x[:0])
    assert none.shape == (0, 4) and made.decode(none).shape == (0, WIDTH)
    one = made.encode_dense(x[:1])
    torch.testing.assert_close(one, expected[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_do_not_vary(kind, tmp_path):
    """Constant columns, and a site of one row again and again."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(40, 4, generator=draw)
    x[:, 2] = 7
    for name, rows in (("column", x), ("all", torch.full((40, 4), 3.0))):
        with mmxai.create_store(tmp_path / name, {"m": 4}, dtype="float32") as w:
            w.write([{"key": str(i)} for i in range(40)], {"m": rows})
        with mmxai.open_store(tmp_path / name) as store:
            options = {"units": 2, "split": None, "warm": 20}
            refused = {"ica": "vary in 0 directions", "seminmf": r"0 rows other than 0 \(less their mean"}
            if name == "all" and kind in refused:
                with pytest.raises(ArgumentError, match=refused[kind]):
                    fit_dictionary(store, "m", kind, **options)
                continue
            made = fit_dictionary(store, "m", kind, **options)
        back = made.decode(made.encode_dense(rows))
        assert back.isfinite().all() and made.directions.isfinite().all()
        if name == "all" and kind != "nmf":
            torch.testing.assert_close(back, rows)


def test_what_is_not_converged_says_so_and_by_how_much(held):
    store, _, _ = held
    options = {"units": 4, "tokens": "patch", "seeds": 0, "sample": 200}
    for kind, did in (
        ("kmeans", "lowered the error by the share"),
        ("ica", "turned a unit by 1 - |cosine| ="),
    ):
        report = decompose(store, SITE, (kind,), passes=2, tol=1e-12, **options)
        facts, note = report.dictionaries[kind].facts, report.comparison.lines[kind].note
        assert not facts["converged"] and facts["passes"] == 2
        assert f"2 passes, the last of which still {did} {facts['change']:.1g} (tol 1e-12)" in note
        errors = facts.get("errors")
        assert errors is None or facts["change"] == (errors[-2] - errors[-1]) / errors[-2]
    settled = decompose(store, SITE, ("kmeans",), passes=50, **options)
    assert settled.dictionaries["kmeans"].facts["converged"]
    assert settled.comparison.lines["kmeans"].note == ""


def test_what_cannot_be_measured_is_refused_before_anything_is_fitted(held, tmp_path):
    store, _, _ = held
    said = []
    options = {"say": said.append, "tokens": "patch"}
    with pytest.raises(ArgumentError, match="at most 16 of ica and pca"):
        decompose(store, SITE, ("kmeans", "pca", "ica"), units=WIDTH + 1, **options)
    few, _, _ = make_store(tmp_path / "few.zarr", samples=2)  # neither of which is for tests
    with few, pytest.raises(SelectionError, match="split=test"):
        decompose(few, SITE, ("kmeans",), units=2, split=None, **options)
    assert said == []


def test_names_that_are_refused_leave_the_figures(held, tmp_path):
    store, _, much = held
    everyone = Truth.of_table(("all",), np.ones((len(much), 1), bool))
    with pytest.raises(ArgumentError, match="give more samples or other candidates"):
        decompose(store, SITE, ("pca",), units=2, tokens="patch", truth=everyone, out=tmp_path)
    assert json.loads((tmp_path / "decompose.json").read_text())["comparison"]["lines"]["pca"]["fvu"] > 0


def test_one_unit_and_no_rows(held):
    store, _, _ = held
    made = fit_dictionary(store, SITE, "pca", units=1, tokens="patch")
    x = store[SITE][:50]
    line = compare({"a": Entry(made, made.directions)}, lambda: iter([x]), SITE).lines["a"]
    assert np.isnan(line.hoyer) and line.kept == {} and line.l0 == 1
    one = compare({"a": Entry(made, made.directions)}, lambda: iter([x[:1]]), SITE).lines["a"]
    assert np.isnan(one.fvu)  # one row does not vary
    with pytest.raises(ArgumentError, match="got no rows"):
        compare({"a": Entry(made, made.directions)}, lambda: iter([]), SITE)


def test_a_seed_draws_rows(held):
    store, _, _ = held
    few = RowStream(store, SITE, "patch", "train", rows=100, seed=1)
    assert few.count() == 100 == sum(len(x) for x in few())
    assert all(torch.equal(a, b) for a, b in zip(few(), few(), strict=True))
    other = RowStream(store, SITE, "patch", "train", rows=100, seed=2)
    assert not torch.equal(torch.cat(list(few())), torch.cat(list(other())))
    made = decompose(store, SITE, ("pca",), units=3, rows=200, seeds=2, tokens="patch")
    assert 0.5 < made.comparison.lines["pca"].stability < 1 - 1e-6


def test_refuses(held, tmp_path):
    store, _, _ = held
    with pytest.raises(ArgumentError, match="expected at most 16"):
        fit_dictionary(store, SITE, "pca", units=WIDTH + 1)
    with pytest.raises(ArgumentError, match="expected one of pca, ica"):
        fit_dictionary(store, SITE, "svd")
    with pytest.raises(ArgumentError, match="use seminmf"):
        fit_dictionary(store, SITE, "nmf", units=2)
    with pytest.raises(SelectionError):
        fit_dictionary(store, SITE, "pca", units=2, tokens="text")
    with pytest.raises(ArgumentError, match="expected rows"):
        fit_dictionary(store, SITE, "pca", units=2).encode_dense(torch.ones(3, 4))
    with pytest.raises(ArgumentError, match="each once"):
        decompose(store, SITE, ("pca", "pca"))
    for wrong in (
        {"units": 0}, {"tol": 0}, {"sample": 3, "units": 4}, {"rows": True, "passes": -1},
        {"negative": "clipped"}, {"split": "training"},
    ):  # fmt: skip
        with pytest.raises(ArgumentError):
            FitConfig(**wrong)
    with pytest.raises(DictionaryFormatError, match=r"dictionary\.json"):
        load_dictionary(tmp_path)
    with pytest.raises(ArgumentError, match="with an encoder"):
        Dictionary("pca", SITE, torch.eye(3), torch.zeros(3))


def test_rows_that_are_not_finite_are_named(tmp_path):
    store, _, _ = make_store(tmp_path / "bad.zarr", samples=20, spoil=83)
    with store, pytest.raises(NonFiniteError, match="a row of sample 10"):
        fit_dictionary(store, SITE, "kmeans", units=2, split=None)
    sample = int(np.flatnonzero(split_of(np.arange(20), (0.8, 0.1, 0.1)) == 1)[0])  # for validation
    store, _, _ = make_store(tmp_path / "val.zarr", samples=20, spoil=PER * sample + 1)
    with store:
        made = fit_dictionary(store, SITE, "kmeans", units=2)  # of rows for training alone
        with pytest.raises(NonFiniteError, match=f"a row of sample {sample},"):
            sample_extremes(store, SITE, {"kmeans": made})


def test_planted_rows_are_what_they_say():
    x, amounts, directions = planted(10)
    torch.testing.assert_close((x - 1) @ directions.T, 3 * amounts, atol=1e-5, rtol=0)
