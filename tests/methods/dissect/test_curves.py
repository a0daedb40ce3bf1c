"""Areas under precision-recall curves against scikit-learn's, and thresholds of best F1 and of the store's
statistics against every pixel."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mmxai.errors import ArgumentError, NonFiniteError, SelectionError
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.codes import Codes
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.curves import Curves
from mmxai.methods.dissect.levels import LEVELS, levels
from mmxai.methods.dissect.passes import Cells
from mmxai.methods.dissect.sources import Source
from mmxai.store import create_store, open_store
from mmxai.store.select import split_of
from mmxai.types import Rows
from tests.methods.dissect.stores import GRID, SITE, Maps, brute, make

PLAIN = dict(sites=(SITE,), controls=(), bootstrap=0, exact=True, quantile=0.1, correlation=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    x = make(path, pictures=24)
    with open_store(path) as store:
        yield store, x, Maps(len(x))


def expected(known, unit, concept, there=None):
    own = known["have"][:, concept]
    there = np.ones(len(own), bool) if there is None else there
    return average_precision_score(own[there], known["values"][there, unit])


@pytest.mark.parametrize("options", [{}, dict(area="annotated"), dict(held_out=0.4), dict(mode="bilinear")])
def test_areas_are_scikit_learns_within_the_bound(made, options):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**(PLAIN | options)))[SITE]
    side = np.arange(len(x))
    if one.held_out:
        side = side[split_of(side, (0.6, 0.4, 0)) == 1]
    known, category = brute(x, concepts, one.threshold, side), concepts.category_of()
    checked = 0
    for unit, rank in zip(*np.nonzero(one.candidates >= 0), strict=True):
        concept = one.candidates[unit, rank]
        there = known["have"][:, len(concepts) + category[concept]] if "area" in options else None
        value, bound = one.auprc[unit, rank], one.auprc_bound[unit, rank]
        if known["truth"][concept]:
            assert abs(expected(known, unit, concept, there) - value) <= bound + 1e-12
            assert 0 <= bound < (0.3 if one.held_out else 0.02) and 0 < value <= 1
            checked += 1
        else:
            assert np.isnan(value)
    assert checked > 20 and one.auprc[2, 0] > 0.35 and (one.auprc_bound > 0).any()
    assert np.isnan(one.auprc[one.candidates < 0]).all()
    assert one.to_pandas()["auprc"][2] == one.auprc[2, 0] == one.measured(2, 3)["auprc"]
    assert json.loads(json.dumps(one.to_json()))["auprc"][2][0] == pytest.approx(one.auprc[2, 0])
    assert dissect(store, concepts, DissectConfig(**(PLAIN | dict(auprc=False))))[SITE].auprc is None


def test_of_few_values_areas_are_exact(tmp_path):
    """No more values than levels: every one is a level."""
    x = make(tmp_path / "a", pictures=9)
    with open_store(tmp_path / "a") as store:
        one = dissect(store, Maps(9), DissectConfig(**PLAIN))[SITE]
        assert x[..., 0].size < LEVELS
    known = brute(x, Maps(9), one.threshold)
    for unit in range(1, 10):
        own = expected(known, unit, one.candidates[unit, 0])
        assert one.auprc[unit, 0] == pytest.approx(own, abs=1e-12)


def test_levels_and_entries_tell_the_same():
    """Values by their entries fall in the same bins as all of them, also below 0."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 8, generator=draw)
    x[torch.rand(30, 8, generator=draw) < 0.7] = 0
    x[:, 5] = 0
    edges = torch.randn(8, 20, generator=draw).sort(1).values
    edges[:, 10] = 0
    edges = edges.sort(1).values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (x != 0).sum(1).cumsum(0)])
    row, column = (x != 0).nonzero(as_tuple=True)
    codes = Codes(x[row, column], column.to(torch.int32), offsets, 8)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (30, 4)).astype(np.int32))
    labels[:, 2:] = 9  # areas
    entry = labels.nonzero(as_tuple=True)
    cells = CellLabels(
        torch.cat([torch.zeros(1, dtype=torch.int64), (labels != 0).sum(1).cumsum(0)]),
        entry[1].to(torch.int32), labels[entry],
    )  # fmt: skip
    candidates = np.array([[0, 1], [1, -1], [1, 0], [0, 1], [-1, -1], [0, 1], [1, 0], [1, 0]])
    for area in ("everywhere", "annotated"):
        # Columns: two concepts of one category, its area, everywhere.
        two = [Curves(edges, candidates, np.zeros(2, np.int64), 1, area) for _ in range(2)]
        two[0].add(x, cells)
        two[1].add(codes, cells)
        a, b = (one.arrays()["bins"] for one in two)
        assert np.array_equal(a, b) and a.sum() > 0 and (a >= 0).all()
        above = labels[:, 0][x[:, 3] > edges[3, 12]].sum()
        assert a[3, 0, 13:].sum() == above
        again = Curves(edges, candidates, np.zeros(2, np.int64), 1, area)
        again.restore(two[1].arrays())
        assert np.array_equal(again.auprc()[0], two[0].auprc()[0], equal_nan=True)


def test_levels_of_sparse_units(tmp_path):
    site = "vision.1.mlp_post.sae"
    make(tmp_path / "a", dtype="topk", site=site, topk=4)
    with open_store(tmp_path / "a") as store:
        source = Source.of(store, site)
        found = levels(source, Cells(store, store[site].space), DissectConfig(sites=(site,)))
        held = source.values(np.arange(len(store[site]))).numpy()
        one = dissect(store, Maps(12), DissectConfig(**(PLAIN | dict(sites=(site,)))))[site]
    assert found.shape == (10, LEVELS) and (found.diff(dim=1) >= 0).all()
    assert found[0].tolist() == [np.nextafter(np.float32(0), -1), *[0.0] * (LEVELS - 1)]  # dead
    assert (found[1:] == 0).any(1).all() and found[2].max() <= held[:, 2].max()
    values = held.reshape(12, 2, -1, 10)[:, :, 1:]
    known = brute(values, Maps(12), np.zeros(10))
    for unit in np.flatnonzero(one.label >= 0):
        own = expected(known, unit, one.label[unit])
        assert abs(own - one.auprc[unit, 0]) <= one.auprc_bound[unit, 0] + 1e-12


@pytest.mark.parametrize("area", ["everywhere", "annotated"])
def test_learned_thresholds_have_the_best_f1(made, area, tmp_path):
    """On the pictures that are not held out: no level has a higher F1 with the concept. The others are
    scored."""
    store, x, concepts = made
    config = DissectConfig(**(PLAIN | dict(rule="f1", held_out=0.4, area=area, candidates=9)))
    one = dissect(store, concepts, config)[SITE]
    side = np.arange(len(x))
    apart = split_of(side, (0.6, 0.4, 0)) == 1
    known, test = (brute(x, concepts, one.threshold, side[s]) for s in (~apart, apart))
    assert np.array_equal(one.scored.inter, test["inter"]) and np.array_equal(one.chosen.unit, known["unit"])
    cells = Cells(store, store[SITE].space, 0.4, "chosen")
    every = levels(Source.of(store, SITE), cells, config).numpy()
    category = len(concepts) + concepts.category_of()
    learned = 0
    for unit in range(1, 10):
        scores = []
        for threshold in [-np.inf, *every[unit]]:
            mask = known["values"][:, unit] > threshold
            both = (mask[:, None] & known["have"]).sum(0)
            size = both[category] if area == "annotated" else mask.sum()
            scores.append(2 * both[: len(concepts)] / np.maximum(size + known["truth"], 1))
        scores = np.array(scores)
        gain = scores[1:].max(0) - scores[0]
        concept = gain.argmax()
        if gain[concept] <= 0:  # nothing is learned
            assert one.threshold[unit] == every[unit, -1]
            continue
        learned += 1
        told = one.chosen.f1(area)[unit, concept]
        assert told == pytest.approx(scores[1:, concept].max(), abs=1e-12)
        assert one.threshold[unit] in every[unit]
    assert learned > 5
    small = PLAIN | dict(held_out=0.4, area=area, quantile=0.01)
    quantile = dissect(store, concepts, DissectConfig(**small))[SITE]
    assert one.best[2] > quantile.best[2] and "best F1" in one.how and one.dead[0]
    again = DissectConfig(**(PLAIN | dict(rule="f1", held_out=0.4, area=area, candidates=9, memory=2e-4)))
    for _ in range(2):
        kept = dissect(store, concepts, again, state=tmp_path / "state")[SITE]
        assert np.array_equal(kept.threshold, one.threshold) and np.array_equal(kept.iou, one.iou)
        assert np.allclose(kept.auprc, one.auprc, equal_nan=True)
    with pytest.raises(ArgumentError, match="held_out"):
        DissectConfig(**(PLAIN | dict(rule="f1")))


def test_rotated_masks_are_as_large_as_those_learned(made):
    store, _, concepts = made
    config = DissectConfig(**(PLAIN | dict(rule="f1", held_out=0.4, controls=("rotated",))))
    one = dissect(store, concepts, config)[SITE]
    assert one.best[2] > one.controls["rotated"].iou.max()


def _patches(path, values, **row):
    """A store of patches alone; `row`: columns of the row table."""
    pictures, cells = len(values), GRID[0] * GRID[1]
    place = torch.arange(cells).repeat(pictures)
    rows = dict(
        sample=torch.arange(pictures).repeat_interleave(cells), position=place, image=0, y=place // GRID[1],
        x=place % GRID[1],
    )  # fmt: skip
    tile = {"affine": [1 / 6, 0, 0, 0, 1 / 8, 0], "grid": list(GRID)}
    stored = [{"key": f"p{i}", "size": [24, 24], "tiles": [tile]} for i in range(pictures)]
    with create_store(path, {SITE: values.shape[-1]}, dtype="float32", durable=False) as writer:
        writer.write(stored, {SITE: values.flatten(0, 1)}, Rows.make(**(rows | row)))
    return path


def test_thresholds_of_the_stores_statistics(tmp_path):
    values = torch.randn(30, 12, 4, generator=torch.Generator().manual_seed(0))
    path = _patches(tmp_path / "a", values)
    options = PLAIN | dict(rule="stats", auprc=False)
    with open_store(path) as store:
        one = dissect(store, Maps(30), DissectConfig(**options))[SITE]
        assert np.array_equal(one.threshold, store.stats[SITE].quantile(0.9).numpy())
        assert one.how == "top 0.1 of all 360 rows, as store.stats tells"
        known = np.quantile(values.flatten(0, 1).numpy(), 0.9, axis=0)
        assert np.allclose(one.threshold, known, atol=1e-6)
        few = options | dict(exact=False, sketch_rows=100)
        drawn = dissect(store, Maps(30), DissectConfig(**few))[SITE]
        expected = store.stats[SITE].quantile(0.9, rows=100).numpy()
        assert np.array_equal(drawn.threshold, expected) and "of 100 of all 360 rows" in drawn.how
        # Where the rows are the cells, it is what the quantile rule draws.
        same = dissect(store, Maps(30), DissectConfig(**(few | dict(rule="quantile"))))[SITE]
        assert np.array_equal(drawn.threshold, same.threshold)
        for wrong, said in (
            (dict(held_out=0.3), "held out"), (dict(nonzero=True), "not 0"), (dict(high_norm=2), "high norm"),
        ):  # fmt: skip
            with pytest.raises(SelectionError, match=said):
                dissect(store, Maps(30), DissectConfig(**(options | wrong)))
    make(tmp_path / "b")
    with (
        open_store(tmp_path / "b") as store,
        pytest.raises(SelectionError, match="no cells within a picture"),
    ):
        dissect(store, Maps(12), DissectConfig(**options))
    values[3, 5, 2] = torch.nan
    with open_store(_patches(tmp_path / "c", values)) as store, pytest.raises(NonFiniteError, match="unit 2"):
        dissect(store, Maps(30), DissectConfig(**options))
