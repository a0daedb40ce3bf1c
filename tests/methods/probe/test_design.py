"""Who is probed and who is held out, before anything is read."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, NonFiniteError, SelectionError
from mmxai.labels import Task, WorldLabels, read_labels
from mmxai.methods.probe.controls import control_values, types_of
from mmxai.methods.probe.design import TEST, make_design
from mmxai.methods.probe.options import ProbeConfig
from mmxai.methods.probe.pooling import read_items
from mmxai.shapes import ShapesWorld
from mmxai.store import open_store
from mmxai.store.select import split_of
from tests.methods.probe.stores import PATCHES, TEXT, A, B, truth, write_labels

SAMPLES = 300


def test_samples_are_split_and_not_rows(store, labels):
    design = make_design(store, "vision", labels, ProbeConfig(test=0.3, folds=4))
    (cohort,) = design.cohorts
    rows = store.rows["vision"].gather(design.rows[cohort.items])
    assert np.array_equal(rows.sample.numpy(), cohort.samples) and len(cohort.items) == SAMPLES * PATCHES
    for fold in range(TEST, 4):
        own = set(cohort.samples[cohort.fold == fold].tolist())
        assert own and not own & set(cohort.samples[cohort.fold != fold].tolist())
    # The store's own hash: what other methods held out as "test" is among these.
    test = set(np.flatnonzero(split_of(np.arange(SAMPLES), (0.8, 0.1, 0.1)) == 2).tolist())
    assert test < set(cohort.samples[cohort.fold == TEST].tolist())
    assert not (cohort.kept & cohort.measured).any() and (cohort.fold[cohort.kept] != TEST).all()


@pytest.mark.parametrize("pool, items", [("cls", 1), ("token", PATCHES), ("mean", 1), ("last", 1)])
def test_pooling(store, labels, pool, items):
    design = make_design(store, "vision", labels, ProbeConfig(pool=pool))
    assert design.items == SAMPLES * items
    wanted = np.zeros(design.items, bool)
    wanted[::2] = True
    wanted[:7] = True
    found = list(read_items(store, design, [A, B], wanted, 23))
    numbers = np.concatenate([n for n, _ in found])
    assert np.array_equal(numbers, np.flatnonzero(wanted))
    x = store[A][:].view(SAMPLES, PATCHES + 1, -1)
    expected = {
        "cls": x[:, 0], "token": x[:, 1:].reshape(-1, 16), "mean": x[:, 1:].mean(1), "last": x[:, -1],
    }[pool]  # fmt: skip
    torch.testing.assert_close(torch.cat([s[A] for _, s in found]), expected[torch.from_numpy(wanted)])
    assert all(len(n) == len(s[B]) for n, s in found)


def test_the_mean_of_other_tokens(store, labels):
    design = make_design(store, "vision", labels, ProbeConfig(pool="mean", tokens="cls,patch"))
    found = torch.cat([x[A] for _, x in read_items(store, design, [A], np.ones(SAMPLES, bool), 10_000)])
    torch.testing.assert_close(found, store[A][:].view(SAMPLES, PATCHES + 1, -1).mean(1))


def test_values_of_items(store, labels):
    known = truth(SAMPLES)
    (cohort,) = make_design(store, "vision", labels, ProbeConfig(pool="cls", controls=0)).cohorts
    by_name = {k.of: k.values for k in cohort.known}
    assert np.array_equal(by_name["class"], known["class"])
    assert np.array_equal(by_name["number"], known["number"])
    labelled = next(t for t in cohort.tasks if t.name == "labels")
    order = [labelled.names.index(n) for n in "pq"]
    assert np.array_equal(by_name["labels"][:, order], known["labels"])


def test_tasks_that_know_other_items(store, tmp_path):
    """They get sums of their own; rare classes and unusable tasks are told, not dropped in silence."""
    lines = ["sample,all,half,rare,few"]
    for i in range(SAMPLES):
        rare = "odd" if i in (3, 4) else "xy"[i // 2 % 2]
        few = "ab"[i % 2] if i < 6 else ""
        lines.append(f"k{i},{'ab'[i % 2]},{'cd'[i // 3 % 2] if i % 2 else ''},{rare},{few}")
    path = tmp_path / "l.csv"
    path.write_text("\n".join(lines))
    design = make_design(store, "vision", read_labels(path, store), ProbeConfig(pool="cls"))
    assert [[t.name for t in c.tasks] for c in design.cohorts] == [["all"], ["half"], ["rare"]]
    assert [len(c.items) for c in design.cohorts] == [300, 150, 298]
    assert design.cohorts[2].tasks[0].names == ("x", "y")
    assert {n.split(":")[0] for n in design.notes} == {"rare", "few"}
    with pytest.raises(SelectionError, match="few: left out"):
        make_design(store, "vision", read_labels(path, store), ProbeConfig(pool="cls", tasks="few"))


def test_patches_of_boxes(store, tmp_path):
    """One label: what no box touches is a class of its own, and can be left out where there are two."""
    lines = ["sample,x0,y0,x1,y1,label"] + [f"k{i},{i % 5},0,{i % 5 + 1},1,a" for i in range(SAMPLES)]
    (tmp_path / "one.csv").write_text("\n".join(lines))
    labels = read_labels(tmp_path / "one.csv", store)
    (cohort,) = make_design(store, "vision", labels, ProbeConfig()).cohorts
    assert cohort.tasks[0].names == ("a", "none") and len(cohort.items) == SAMPLES * PATCHES
    assert np.array_equal(cohort.known[0].values == 0, cohort.items % 5 == cohort.samples % 5)
    lines += [f"k{i},{(i + 1) % 5},0,{(i + 1) % 5 + 1},1,b" for i in range(SAMPLES)]
    (tmp_path / "two.csv").write_text("\n".join(lines))
    two = read_labels(tmp_path / "two.csv", store)
    (cohort,) = make_design(store, "vision", two, ProbeConfig()).cohorts
    assert cohort.tasks[0].names == ("a", "b") and len(cohort.items) == 2 * SAMPLES
    (cohort,) = make_design(store, "vision", two, ProbeConfig(uncovered="class")).cohorts
    assert cohort.tasks[0].names == ("a", "b", "none") and len(cohort.items) == 5 * SAMPLES
    with pytest.raises(SelectionError, match="one row a sample"):
        make_design(store, "vision.pooled", two, ProbeConfig())
    with pytest.raises(ArgumentError, match="pool='token'"):
        make_design(store, "vision", two, ProbeConfig(pool="mean"))


def test_tasks_of_the_other_level(store):
    """Named by somebody who forgot the pooling: the error says which pooling it takes."""
    world = WorldLabels(ShapesWorld(SAMPLES, seed=0))
    with pytest.raises(ArgumentError, match=r"\['place'\].*whole samples; expected pool='cls'"):
        make_design(store, "vision", world, ProbeConfig(tasks=("colour", "place")))
    two = BoxLike(world)
    with pytest.raises(ArgumentError, match=r"\['covered'\].*of patches; expected pool='token'"):
        make_design(store, "vision", two, ProbeConfig(pool="cls", tasks="covered"))


class BoxLike(WorldLabels):
    """The world with a task that only patches have."""

    def __init__(self, world):
        super().__init__(world._world)
        self.tasks = (*self.tasks, Task("covered", "classes", "cell", ("a", "b")))


def test_controls_keep_the_frequencies_and_nothing_else():
    draw = np.random.default_rng(0)
    values = draw.choice(3, 6000, p=[0.7, 0.2, 0.1])
    samples = np.repeat(np.arange(1500), 4)
    task = Task("t", "classes", "sample", ("a", "b", "c"))
    every = np.ones(6000, bool)
    train = samples < 1000
    types = types_of(task, values, samples, np.full(6000, -1), by_token=False)
    found = control_values(task, values, every, train, types, 5)
    assert (found.reshape(1500, 4) == found.reshape(1500, 4)[:, :1]).all(), "one label a sample"
    np.testing.assert_allclose(np.bincount(found) / 6000, np.bincount(values[train]) / 4000, atol=0.04)
    agree, chance = (found == values).mean(), (np.bincount(found) * np.bincount(values)).sum() / 6000**2
    assert abs(agree - chance) < 0.04
    assert (control_values(task, values, every, train, types, 6) != found).any()
    # By token: the same word, the same label, wherever it stands.
    words = draw.integers(0, 50, 6000)
    by_word = control_values(task, values, every, train, types_of(task, values, samples, words, True), 5)
    assert all(len(set(by_word[words == w])) == 1 for w in range(50))
    # Of patches: those of one label in one picture stay together.
    cell = Task("t", "classes", "cell", ("a", "b", "c"))
    kinds = control_values(cell, values, every, train, types_of(cell, values, samples, words, False), 5)
    groups = {}
    for s, v, k in zip(samples, values, kinds, strict=True):
        groups.setdefault((s, v), set()).add(k)
    assert all(len(g) == 1 for g in groups.values()) and len({min(g) for g in groups.values()}) == 3
    # Labels that go together in training still do.
    many = np.stack([values == 0, values == 0], 1).astype(np.int8)
    two = Task("m", "multilabel", "sample", ("x", "y"))
    drawn = control_values(two, many, every, train, samples, 5)
    assert (drawn[:, 0] == drawn[:, 1]).all()


def test_words_are_their_own_controls(store, tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("sample,label\n" + "\n".join(f"k{i},{'ab'[i % 2]}" for i in range(SAMPLES)))
    (cohort,) = make_design(store, "text", read_labels(path, store), ProbeConfig()).cohorts
    words = store.rows["text"].token_id.numpy()[cohort.items]
    control = next(k.values for k in cohort.known if k.control == 0)
    assert all(len(set(control[words == w])) == 1 for w in range(30)) and TEXT in store


def test_test_items_are_capped_by_whole_samples(store, labels):
    design = make_design(store, "vision", labels, ProbeConfig(test_rows=100))
    (cohort,) = design.cohorts
    counts = np.unique(cohort.samples[cohort.measured], return_counts=True)[1]
    assert counts.sum() == 100 and (counts == PATCHES).all()
    assert any("test_rows" in n for n in design.notes)


def test_a_row_that_is_no_number(tmp_path):
    from mmxai.store import create_store
    from mmxai.types import Rows

    x = torch.zeros(40, 2)
    x[17, 1] = torch.nan
    with create_store(tmp_path / "s", {"t": {"t.0.x": 2}}, dtype="float32", durable=False) as writer:
        writer.write([f"k{i}" for i in range(40)], {"t.0.x": x}, {"t": Rows.make(sample=torch.arange(40))})
    (tmp_path / "l.csv").write_text("sample,label\n" + "\n".join(f"k{i},{i % 2}" for i in range(40)))
    with open_store(tmp_path / "s") as store:
        config = ProbeConfig(folds=2, pool="cls")
        design = make_design(store, "t", read_labels(tmp_path / "l.csv", store), config)
        with pytest.raises(NonFiniteError, match=r"t\.0\.x.*sample 17"):
            list(read_items(store, design, ["t.0.x"], np.ones(40, bool), 8))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sites": ()}, "sites"), ({"pool": "max"}, "pool"), ({"method": "svm"}, "method"),
        ({"folds": 1}, "folds"), ({"test": 1.0}, "test"), ({"overlap": 0}, "overlap"),
        ({"penalties": (0.0,)}, "penalties"), ({"penalties": ()}, "penalties"), ({"kept": 3}, "kept"),
        ({"pool": "cls", "tokens": "patch"}, "leave one out"), ({"seed": -1}, "seed"),
        ({"memory": 0}, "memory"), ({"uncovered": "maybe"}, "uncovered"),
    ],
)  # fmt: skip
def test_refuses(options, said):
    with pytest.raises(ArgumentError, match=said):
        ProbeConfig(**options)


def test_a_class_in_one_fold_alone_is_left_out(store, tmp_path):
    """Where that fold is held out, nothing would be left of it; with another fold, there is."""
    config = ProbeConfig(folds=2, pool="cls")
    path = write_labels(tmp_path / "all.csv", SAMPLES)
    (cohort,) = make_design(store, "vision", read_labels(path, store, multilabel=["labels"]), config).cohorts
    where = {f: cohort.samples[cohort.fold == f][:3].tolist() for f in (0, 1)}
    for rare, kept in ((where[0], False), (where[0] + where[1], True)):
        lines = [f"k{i},{'rare' if i in rare else 'ab'[i % 2]}" for i in range(SAMPLES)]
        (tmp_path / "l.csv").write_text("\n".join(["sample,label", *lines]))
        design = make_design(store, "vision", read_labels(tmp_path / "l.csv", store), config)
        assert ("rare" in design.cohorts[0].tasks[0].names) == kept
        assert any("rare left out" in note and "one fold" in note for note in design.notes) != kept


def test_numbers_with_nothing_to_tell_are_left_out(store, tmp_path):
    """All alike, or with no training sample but in one fold: not a NaN, nor an error half way."""
    config = ProbeConfig(folds=2, pool="cls")
    path = write_labels(tmp_path / "all.csv", SAMPLES)
    (cohort,) = make_design(store, "vision", read_labels(path, store, multilabel=["labels"]), config).cohorts
    some = [s for f in (0, TEST) for s in cohort.samples[cohort.fold == f][:6].tolist()]
    lines = [f"k{i},3.5,{i if i in some else ''},{i}" for i in range(SAMPLES)]
    (tmp_path / "l.csv").write_text("\n".join(["sample,alike,one fold,good", *lines]))
    labels = read_labels(tmp_path / "l.csv", store, regression=["alike", "one fold", "good"])
    design = make_design(store, "vision", labels, config)
    assert [t.name for c in design.cohorts for t in c.tasks] == ["good"]
    assert {
        "alike: left out, its numbers are all alike in training samples",
        "one fold: left out, its training samples are all in one of 2 folds",
    } <= set(design.notes)
