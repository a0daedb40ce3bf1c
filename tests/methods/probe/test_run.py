"""`probe` from a store to figures: against scikit-learn on the same rows, in any grouping of sites."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier

from mmxai.errors import ArgumentError, SelectionError, UnknownSiteError
from mmxai.labels import read_labels
from mmxai.methods.probe import ProbeConfig, group, load_directions, load_erasers, memory, probe, site_probes
from mmxai.methods.probe.design import TEST, make_design
from mmxai.methods.probe.memory import needs_of
from mmxai.methods.probe.metrics import CLASSES as FIGURES
from mmxai.methods.probe.metrics import NUMBERS
from mmxai.store import Store, create_store, open_store
from tests.methods.probe.stores import CLASSES, PATCHES, POOLED, TEXT, A, B, make, truth, write_labels

SAMPLES = 500


def rows(store, labels, config, site):
    """x and targets of the training and test items, taken from the store by hand."""
    (cohort,) = make_design(store, store[site].space, labels, config).cohorts
    design = make_design(store, store[site].space, labels, config)
    x = store[site][:][torch.from_numpy(design.rows)].double().numpy()[cohort.items]
    values = {k.of: k.values for k in cohort.known if k.control < 0}
    train = cohort.fold != TEST
    return x, values, train


@pytest.mark.parametrize("method", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize("site", [A, B])
def test_probes_are_those_of_scikit_learn(store, labels, method, site):
    penalty = 3.0
    config = ProbeConfig(
        sites=site, method=method, penalties=(penalty,), absolute=True, controls=1, mdl=False, bootstrap=0
    )
    report = probe(store, labels, config)
    x, values, train = rows(store, labels, config, site)
    found = report.directions[site, "class"]
    if method == "ridge":
        there = RidgeClassifier(alpha=penalty).fit(x[train], values["class"][train])
        np.testing.assert_allclose(found.coef, there.coef_, atol=2e-5 * np.abs(there.coef_).max())
        np.testing.assert_allclose(found.intercept, there.intercept_, rtol=1e-4, atol=1e-4)
    elif method == "lda":
        # Ours adds the penalty to the scatter within classes; theirs takes a covariance of our making.
        there = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Added(penalty)).fit(
            x[train], values["class"][train]
        )
    else:
        there = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(
            x[train], values["class"][train]
        )
        largest = np.abs(there.coef_).max()
        np.testing.assert_allclose(found.coef, there.coef_, atol=1e-2 * largest)
    score = next(s for s in report.scores if s.task == "class")
    right = there.predict(x[~train]) == values["class"][~train]
    assert score.figures["accuracy"].value == pytest.approx(right.mean(), abs=1.5 / len(right))
    assert score.test == len(right) and score.train == train.sum()
    number = next(s for s in report.scores if s.task == "number")
    there = Ridge(alpha=penalty).fit(x[train], values["number"][train])
    r2 = there.score(x[~train], values["number"][~train])
    assert number.method == "ridge_regression" and number.figures["R2"].value == pytest.approx(r2, rel=1e-4)
    many = report.directions[site, "labels"]
    for k in range(3 if method != "lda" else 0):
        y = values["labels"][train][:, k]
        if method == "ridge":
            one = RidgeClassifier(alpha=penalty).fit(x[train], y)
            np.testing.assert_allclose(many.coef[k], one.coef_.ravel(), atol=3e-5 * np.abs(one.coef_).max())
        else:
            one = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(x[train], y)
            np.testing.assert_allclose(many.coef[k], one.coef_.ravel(), atol=1e-2 * np.abs(one.coef_).max())


class Added:
    """The covariance within a class (scikit-learn asks for one a class) with a share of the penalty."""

    def __init__(self, penalty):
        self.penalty = penalty

    def get_params(self, deep=True):
        return {"penalty": self.penalty}

    def set_params(self, **params):
        return self

    def fit(self, x):
        # Weighed by class shares these add up to (S + penalty) / n; each class has about n / CLASSES rows.
        self.covariance_ = np.cov(x.T, bias=True) + np.eye(x.shape[1]) * self.penalty / (CLASSES * len(x))
        return self


def test_figures_of_a_planted_truth(store, labels):
    """Sites that hold the truth tell it, controls stay at chance, and MDL says which holds more of it."""
    report = probe(store, labels, ProbeConfig(sites=("vision.*.resid_post",), controls=2))
    table = {(s.site, s.task): s for s in report.scores}
    strong, weak = table[A, "class"], table[B, "class"]
    assert strong.figures["accuracy"].value > 0.99 > weak.figures["accuracy"].value > 0.35
    for score in (strong, weak):
        assert score.control["accuracy"].value == pytest.approx(1 / CLASSES, abs=0.08)
        assert score.control["AUC"].value == pytest.approx(0.5, abs=0.06)
        low, high = score.selectivity.low, score.selectivity.high
        assert low < score.figures["accuracy"].value - score.control["accuracy"].value < high
        assert score.confusion.sum() == score.test
    assert strong.codelength.bits < 0.3 < weak.codelength.bits < 2.2
    assert strong.control_codelength.bits == pytest.approx(2.0, abs=0.25)
    assert table[A, "number"].figures["R2"].value > 0.9 > table[B, "number"].figures["R2"].value
    assert table[A, "labels"].figures["AUC"].value > 0.98
    assert report.best("class").site == A and report.sites == [A, B]
    assert "selectivity" in str(report) and "best at vision.0.resid_post" in str(report)


def test_chance_on_labels_that_mean_nothing(store, tmp_path):
    """The figure that leaks first when a split or a choice looks at test samples."""
    draw = np.random.default_rng(3)
    lines = ["sample,label", *(f"k{i},{draw.integers(0, 2)}" for i in range(SAMPLES))]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    report = probe(store, read_labels(tmp_path / "l.csv", store), ProbeConfig(sites=(A, B)))
    for score in report.scores:
        e = score.figures["accuracy"]
        assert e.low < 0.5 < e.high and score.codelength.bits > 0.95


def test_words_are_learnt_by_heart_and_selectivity_says_so(store, tmp_path):
    """Labels by word in rows that hold the word: a probe tells the control as well as the task."""
    words = truth(SAMPLES)["words"]
    lines = ["sample,label", *(f"k{i},{'ab'[words[i, 0] % 2]}" for i in range(SAMPLES))]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    report = probe(
        store, read_labels(tmp_path / "l.csv", store), ProbeConfig(sites=TEXT, control="type", mdl=False)
    )
    (score,) = report.scores
    assert score.control["accuracy"].value > score.figures["accuracy"].value + 0.1


def test_every_row_is_read_once(store, labels, monkeypatch):
    """All sites of a row space, tasks, penalties, folds and controls: training rows together once, test rows
    once."""
    asked = []
    batches = Store.batches

    def counted(self, batch, **options):
        asked.append((tuple(options["sites"]), np.asarray(options["rows"])))
        return batches(self, batch, **options)

    monkeypatch.setattr(Store, "batches", counted)
    report = probe(store, labels, ProbeConfig(sites=(A, B), controls=2, erase=True, pool="mean"))
    assert [sites for sites, _ in asked] == [(A, B), (A, B)]
    read = np.concatenate([rows for _, rows in asked])
    assert len(np.unique(read)) == len(read) == SAMPLES * PATCHES
    assert {len(asked[1][1]) // PATCHES} == {s.test_samples for s in report.scores}


def test_all_figures_are_in_the_file(store, labels, tmp_path):
    """What the issue names, each beside its interval and its control's, as JSON that any reader takes."""
    probe(store, labels, ProbeConfig(sites=A, bootstrap=20)).save(tmp_path / "probe.json")
    found = json.loads((tmp_path / "probe.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    by_task = {s["task"]: s for s in found["scores"]}
    assert set(by_task) == {"class", "labels", "number"}
    for name, score in by_task.items():
        figures = NUMBERS if name == "number" else FIGURES
        for table in (score["figures"], score["control"]):
            assert set(table) == set(figures)
            for e in table.values():
                assert set(e) == {"value", "low", "high"} and e["low"] <= e["high"]
        assert set(score["selectivity"]) == {"value", "low", "high"}
        if name != "number":
            assert score["codelength"]["bits"] < score["control_codelength"]["bits"]
    assert len(by_task["class"]["confusion"]) == CLASSES and by_task["class"]["reliability"]


def test_memory_decides_how_many_at_once_and_nothing_else(store, labels):
    said = []
    options = {"sites": ("*",), "pool": "cls", "bootstrap": 20, "batch": 61}
    config = ProbeConfig(**options)
    designs = {s: make_design(store, store[s].space, labels, config) for s in (A, B, POOLED)}
    most = max(sum(needs_of(store, design, config, site)) for site, design in designs.items())
    one = probe(store, labels, ProbeConfig(**options, memory=most / 2**30), say=said.append)
    assert sum("1 sites" in line for line in said) == 3
    other = probe(store, labels, ProbeConfig(**options | {"batch": 4096}))
    assert one.sites == other.sites == [A, B, POOLED]
    assert any("text" in n for n in one.notes), "no class token there"
    for a, b in zip(one.scores, other.scores, strict=True):
        assert a.values() == pytest.approx(b.values(), rel=1e-4, abs=1e-4)
    with pytest.raises(ArgumentError, match=rf"{B}, 24 wide, takes .*fewer folds"):
        probe(store, labels, ProbeConfig(**options, memory=0.99 * most / 2**30))
    # The pooled rows are those of the class token.
    by_site = {s.site: s for s in other.scores if s.task == "class"}
    assert by_site[POOLED].values() == pytest.approx(by_site[A].values(), rel=1e-6)


@pytest.mark.parametrize("sites", [(A,), (A, B)])
@pytest.mark.parametrize("method", ["ridge", "lda"])
def test_the_number_of_threads_changes_no_bit(store, labels, method, sites):
    """Folds side by side where there is one site, else sites."""
    before, found = torch.get_num_threads(), []
    config = ProbeConfig(sites=sites, method=method, bootstrap=20, erase=True)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(probe(store, labels, config))
    finally:
        torch.set_num_threads(before)
    one, two = found
    assert one.to_json() == two.to_json()
    assert all(
        torch.equal(one.directions[s, t].coef, two.directions[s, t].coef)
        for s in sites
        for t in ("class", "number")
    )
    assert list(one.erasers) == list(two.erasers)


def test_threads_are_as_many_as_memory_has_room_for(store, labels, monkeypatch):
    monkeypatch.setattr(memory, "thread_count", lambda threads: 3)
    design = make_design(store, "vision", labels, config := ProbeConfig(sites=A))

    def made(most):
        return list(memory.groups(store, design, replace(config, memory=most / 2**30), [A, A, A]))

    held, working = 100, 10_000
    monkeypatch.setattr(memory, "needs_of", lambda *args: memory.Needs(held, working))
    assert made(held + working) == [([A], 1)] * 3
    assert made(3 * held + working) == [([A] * 3, 1)], "sites that share a reading come before threads"
    assert made(2 * held + 2.5 * working) == [([A] * 3, 2)]
    assert made(held + 6 * working) == [([A] * 3, 3)]
    assert made(1e12) == [([A] * 3, 3)]


def test_fewer_rows_than_width(tmp_path):
    """The dual form: 100 training rows of width 200, against scikit-learn."""
    path = make(tmp_path / "acts.zarr", 120, widths=(200, 24))
    with open_store(path) as store:
        labels = read_labels(
            write_labels(tmp_path / "l.csv", 120),
            store,
            regression=[
                "number",
            ],
        )
        config = ProbeConfig(sites=A, pool="cls", tasks="class", penalties=(5.0,), absolute=True, bootstrap=0)
        report = probe(store, labels, config)
        x, values, train = rows(store, labels, config, A)
        there = RidgeClassifier(alpha=5.0).fit(x[train], values["class"][train])
        assert train.sum() < 200
        np.testing.assert_allclose(report.directions[A, "class"].coef, there.coef_, atol=1e-5)


def test_logistic_from_the_store_is_that_from_memory(store, labels, monkeypatch):
    options = {"sites": A, "method": "logistic", "tasks": "class", "bootstrap": 0, "mdl": False}
    options |= {"kept": 256, "batch": 64}
    one = probe(store, labels, ProbeConfig(**options))
    read, inner = [], group.read_items
    monkeypatch.setattr(group, "read_items", lambda *args: read.append(1) or inner(*args))
    monkeypatch.setattr(group, "budget", lambda config: 0)
    other = probe(store, labels, ProbeConfig(**options))
    assert len(read) > 5, "a pass over the store each iteration"
    torch.testing.assert_close(
        one.directions[A, "class"].coef, other.directions[A, "class"].coef, rtol=1e-3, atol=1e-3
    )


def test_logistic_that_does_not_converge_says_so(store, labels, monkeypatch, recwarn):
    """In the report, where it concerns the penalty that was chosen; others warn of nothing."""
    options = {"sites": A, "method": "logistic", "tasks": "class", "bootstrap": 0, "mdl": False}
    fine = probe(store, labels, ProbeConfig(**options))
    assert fine.scores[0].converged and not any("converged" in n for n in fine.notes)
    monkeypatch.setattr(site_probes, "fit_logistic", partial(site_probes.fit_logistic, max_passes=2))
    late = probe(store, labels, ProbeConfig(**options))
    assert not late.scores[0].converged and not late.to_json()["scores"][0]["converged"]
    assert any("1 of 1 probes ended before they had converged" in n for n in late.notes)
    assert not any("logistic" in str(w.message) for w in recwarn)


def test_saved_and_read_again(store, labels, tmp_path):
    report = probe(store, labels, ProbeConfig(sites=(A, B), pool="mean", bootstrap=10))
    report.save(tmp_path / "probe.json")
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["config"]["pool"] == "mean" and len(found["scores"]) == 6 and "directions" not in found
    directions = load_directions(tmp_path / "probe.safetensors")
    one, other = directions[A, "class"], report.directions[A, "class"]
    assert torch.equal(one.coef, other.coef) and one.names == other.names
    assert one.unit("c2").norm() == pytest.approx(1)
    sites, table = directions.between("class")
    assert sites == [A, B] and np.isnan(table[0, 1]) and table[0, 0] == pytest.approx(1)
    names, cosines = directions.at(A)
    assert "class: c0" in names and "number" in names and np.allclose(np.diag(cosines), 1, atol=1e-6)
    frame = report.to_pandas()
    assert len(frame) == 6 and "accuracy low" in frame.columns
    assert report.table("selectivity").shape == (2, 3)


def test_a_projection_onto_a_direction_tells_the_label(store, labels):
    """What steering would add: along the direction of a class, rows of that class lie further out."""
    report = probe(store, labels, ProbeConfig(sites=A, tasks="class", bootstrap=0, mdl=False))
    unit = report.directions[A, "class"].unit("c1")
    along = (store[A][:] @ unit).view(SAMPLES, PATCHES + 1).mean(1).numpy()
    own = truth(SAMPLES)["class"] == 1
    assert along[own].min() > along[~own].max() - 0.5 and along[own].mean() > along[~own].mean() + 1


def test_an_eraser_leaves_nothing_to_tell(store, labels, tmp_path):
    """Rows erased and probed anew: the class is at chance, and another task is told as before."""
    report = probe(store, labels, ProbeConfig(sites=(A,), erase=True, bootstrap=0))
    report.save(tmp_path / "probe.json")
    erasers = load_erasers(tmp_path / "probe.erasers.safetensors")
    assert set(erasers) == {(A, "class"), (A, "labels"), (A, "number")}
    gone = erasers[A, "class"](store[A][:])
    with create_store(tmp_path / "gone", {"vision": {A: 16}}, dtype="float32", durable=False) as writer:
        table = store.rows["vision"]
        writer.write([s.key for s in store.samples], {A: gone}, {"vision": table[:]})
    with open_store(tmp_path / "gone") as erased:
        again = probe(erased, labels, ProbeConfig(sites=(A,), controls=0, mdl=False, bootstrap=0))
    before, after = ({s.task: s.figures for s in r.scores} for r in (report, again))
    assert before["class"]["accuracy"].value > 0.99
    assert after["class"]["accuracy"].value < 1 / CLASSES + 0.08
    assert after["number"]["R2"].value > before["number"]["R2"].value - 0.05
    with pytest.raises(ArgumentError, match="takes no moments"):
        ProbeConfig(method="logistic", erase=True)


def test_refuses(store, labels):
    with pytest.raises(UnknownSiteError, match="resid_mid"):
        probe(store, labels, ProbeConfig(sites="vision.0.resid_mid"))
    with pytest.raises(SelectionError, match="text"):
        probe(store, labels, ProbeConfig(sites=TEXT, pool="cls"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["lda", "mean_difference"])
def test_controls_whose_classes_are_not_in_every_fold(store, tmp_path, method):
    """Labels drawn at random for samples miss some of forty classes in some fold, and in all of them."""
    names = [f"c{i % 40 if i < 300 else i % 4}" for i in range(SAMPLES)]
    (tmp_path / "l.csv").write_text("sample,label\n" + "\n".join(f"k{i},{c}" for i, c in enumerate(names)))
    config = ProbeConfig(sites=A, pool="cls", method=method, controls=4, bootstrap=50)
    (score,) = probe(store, tmp_path / "l.csv", config).scores
    assert len(score.names) > 20 and score.control is not None
    assert np.isfinite([e.value for e in score.figures.values()]).all() and np.isfinite(score.temperature)
    assert np.isfinite([e.value for n, e in score.control.items() if n != "log loss"]).all()
    assert np.isnan(score.penalty) == (method == "mean_difference")


def test_scores_to_choose_by_are_counted(store, labels):
    """All penalties' in float64, of methods that choose by the log loss."""
    design = make_design(store, "vision", labels, ProbeConfig())
    few, many = (needs_of(store, design, ProbeConfig(method=m), A).working for m in ("ridge", "lda"))
    (kept,) = (int(c.kept.sum()) for c in design.cohorts)
    assert few < 32 * 7 * kept * CLASSES < many
