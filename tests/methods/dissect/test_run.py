"""Counts of a store against brute force, pixel by pixel, and all that is derived of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmxai.concepts import ImageLabels
from mmxai.errors import ArgumentError, CheckpointError, DataError, NonFiniteError, SelectionError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.passes import Pairs, samples_of
from mmxai.methods.dissect.sources import rotation
from mmxai.store import create_store, open_store
from mmxai.store.select import split_of
from mmxai.types import Rows
from tests.methods.dissect.stores import CLASSES, GRID, SITE, SIZES, Maps, brute, make, tiles

PLAIN = dict(sites=(SITE,), controls=(), bootstrap=0, exact=True, quantile=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    x = make(path)
    with open_store(path) as store:
        yield store, x, Maps(len(x))


def same(counts, expected):
    for name in ("inter", "unit", "unit_in", "truth", "pixels_in"):
        assert np.array_equal(getattr(counts, name), expected[name]), name
    assert counts.pixels == expected["pixels"]


def equal(a, b):
    """Two dissections to the last bit."""
    for name in ("threshold", "candidates", "iou", "low", "high", "ceiling", "top_rows", "top_values"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name
    for side in ("chosen", "scored"):
        for name, value in getattr(a, side).arrays().items():
            assert np.array_equal(value, getattr(b, side).arrays()[name]), name
    assert {k: c.iou.tolist() for k, c in a.controls.items()} == {
        k: c.iou.tolist() for k, c in b.controls.items()
    }


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_counts_are_those_of_every_pixel(made, mode):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(mode=mode, **PLAIN))[SITE]
    expected = brute(x, concepts, one.threshold, mode=mode)
    same(one.scored, expected)
    assert one.unannotated == 1 and one.scored.pictures == len(x) - 1
    assert one.scored is one.chosen
    for area in ("everywhere", "annotated"):
        own = expected["unit_in"][:, concepts.category_of()]
        unit = expected["unit"][:, None] if area == "everywhere" else own
        union = unit + expected["truth"] - expected["inter"]
        assert np.allclose(one.scored.iou(area), expected["inter"] / np.maximum(union, 1))
    assert (one.scored.iou("everywhere") < one.scored.iou("annotated")).any()
    assert one.label[2] == 3, "the unit that is a concept"


def test_a_concept_never_seen_and_a_unit_of_zeros(made):
    store, _, concepts = made
    one = dissect(store, concepts, DissectConfig(**PLAIN))[SITE]
    never = np.flatnonzero(one.scored.truth == 0)
    assert len(never) and not one.scored.iou()[:, never].any() and not one.ceiling[never].any()
    assert one.dead.tolist() == [True] + [False] * 9 and one.label[0] == -1 and one.best[0] == 0
    assert not one.detectors()[0] and one.threshold[0] == 0 and one.how.startswith("top 0.1")
    assert json.loads(json.dumps(one.to_json()))["detectors"] == one.detectors().sum()
    assert "dead" in str(one) and len(one.to_pandas()) == 10
    assert sum(sum(v.values()) for v in one.by_category().values()) == one.detectors().sum()


def test_measures_by_their_definitions(made):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**PLAIN))[SITE]
    known, c = brute(x, concepts, one.threshold), len(concepts)
    counts, category = one.scored, concepts.category_of()
    for u in range(1, 10):
        for k in np.flatnonzero(known["truth"]):
            mask, label = known["masks"][:, u], known["have"][:, k]
            both = (mask & label).sum()
            assert np.isclose(counts.precision()[u, k], both / mask.sum())
            assert np.isclose(counts.recall()[u, k], both / label.sum())
            assert np.isclose(counts.f1()[u, k], 2 * both / (mask.sum() + label.sum()))
            assert np.isclose(counts.phi()[u, k], np.corrcoef(mask, label)[0, 1])
            there = known["have"][:, c + category[k]]
            if label[there].all():
                assert np.isnan(counts.correlation()[u, k])  # a scene that is in every picture annotated
                continue
            r = np.corrcoef(known["values"][there, u].astype(float), label[there])[0, 1]
            assert np.isclose(counts.correlation()[u, k], r, atol=1e-5)
            inside = mask & there
            told = both / (inside | label).sum()
            assert np.isclose(counts.iou("annotated")[u, k], told)
    assert np.isnan(counts.correlation()[0]).all()
    told = one.measured(2, 3)
    assert told["iou"] == one.best[2] and np.isclose(told["correlation"], counts.correlation()[2, 3])


def test_ceiling_is_the_best_that_cells_attain(made):
    """Against every level of every concept: a mask takes the cells of which it has at least that share."""
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**PLAIN))[SITE]
    number = np.broadcast_to(np.arange(x[..., 0].size).reshape(x.shape[:3])[..., None], (*x.shape[:3], 1))
    known = brute(number.astype(np.float64), concepts, -1.0)
    cell = known["values"][:, 0].astype(int)
    for k in np.flatnonzero(known["truth"]):
        a = np.bincount(cell, known["have"][:, k], minlength=x[..., 0].size)
        n = np.bincount(cell, minlength=x[..., 0].size)
        order = np.argsort(-a / np.maximum(n, 1))
        inside, taken = a[order].cumsum(), n[order].cumsum()
        best = (inside / (taken + a.sum() - inside)).max()
        assert best - 1e-3 <= one.ceiling[k] <= best + 1e-12
        assert (one.scored.iou()[:, k] <= best + 1e-12).all()
    assert (one.relative() <= 1 + 1e-9).all()


def test_labels_are_chosen_on_some_pictures_and_scored_on_others(made):
    store, x, concepts = made
    config = DissectConfig(**(PLAIN | dict(held_out=0.4, controls=("shuffled",), bootstrap=50)))
    one = dissect(store, concepts, config)[SITE]
    apart = split_of(np.arange(len(x)), (0.6, 0.4, 0)) == 1
    assert 2 <= apart.sum() <= len(x) - 3
    train, test = np.flatnonzero(~apart), np.flatnonzero(apart)
    level = np.quantile(_cells(x[train], train), 0.9, axis=0)
    assert np.allclose(one.threshold, level, atol=1e-6)
    same(one.chosen, brute(x, concepts, one.threshold, train))
    same(one.scored, brute(x, concepts, one.threshold, test))
    known = brute(x, concepts, one.threshold, train)
    iou = known["inter"] / np.maximum(known["unit"][:, None] + known["truth"] - known["inter"], 1)
    best = np.where(iou.max(1) > 0, iou.argmax(1), -1)
    assert np.array_equal(one.label, best)
    rows = np.arange(10)
    assert np.array_equal(one.best, np.where(best < 0, 0, one.scored.iou()[rows, np.maximum(best, 0)]))
    assert one.unannotated == 1 and one.counts.pictures == len(x) - 1
    assert one.fired.sum() == one.chosen.fired.sum() + one.scored.fired.sum()
    assert not np.isnan(one.low[2, 0]) and "held out (40%)" in str(one)


def _cells(x, samples):
    """Values of the cells that share area with their picture, `[n, U]`."""
    out = []
    for own, i in zip(x, samples, strict=True):
        for t, tile in enumerate(tiles(SIZES[i % 3])):
            height = tile["affine"][4] * SIZES[i % 3][1] + tile["affine"][5]
            inside = np.repeat(np.arange(GRID[0]) < height, GRID[1])
            out.append(own[t][inside])
    return np.concatenate(out)


def test_thresholds_are_quantiles_of_cells_within_the_picture(made):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**PLAIN))[SITE]
    cells = _cells(x, range(len(x)))
    assert len(cells) < x[..., 0].size
    assert np.allclose(one.threshold, np.quantile(cells, 0.9, axis=0), atol=1e-6)
    assert f"{len(cells):,} cells" in one.how
    # The sketch of a store that small is all of it.
    sketch = dissect(store, concepts, DissectConfig(**(PLAIN | dict(exact=False))))[SITE]
    assert np.array_equal(sketch.threshold, one.threshold)
    few = dissect(store, concepts, DissectConfig(**(PLAIN | dict(exact=False, sketch_rows=100))))[SITE]
    assert "100 cells, drawn" in few.how and (few.threshold != one.threshold).any()
    # Order statistics that do not fit in memory are found by radix selection.
    small = DissectConfig(**(PLAIN | dict(memory=2e-5, top=0, correlation=False)))
    assert np.array_equal(dissect(store, concepts, small)[SITE].threshold, one.threshold)
    # Ties at the threshold are not above it.
    assert (x[..., 3] == one.threshold[3]).any()
    fixed = dissect(store, concepts, DissectConfig(**(PLAIN | dict(rule="absolute", absolute=0.5))))[SITE]
    assert (fixed.threshold == 0.5).all()
    same(fixed.scored, brute(x, concepts, fixed.threshold))


def test_given_thresholds(made):
    store, x, concepts = made
    own = torch.linspace(-1, 1, 10)
    one = dissect(store, concepts, DissectConfig(**PLAIN), given={SITE: own})[SITE]
    same(one.scored, brute(x, concepts, own.numpy()))
    with pytest.raises(ArgumentError, match="10 units"):
        dissect(store, concepts, DissectConfig(**PLAIN), given={SITE: own[:4]})
    with pytest.raises(ArgumentError, match="expected some of"):
        dissect(store, concepts, DissectConfig(**PLAIN), given={"other": own})


def test_controls(made):
    store, x, concepts = made
    config = DissectConfig(**(PLAIN | dict(controls=("rotated", "shuffled"))))
    one = dissect(store, concepts, config)[SITE]
    pairs = Pairs(samples_of(store), 0)
    known = brute(x, concepts, one.threshold, labels=pairs)
    iou = known["inter"] / np.maximum(known["unit"][:, None] + known["truth"] - known["inter"], 1)
    assert np.allclose(one.controls["shuffled"].iou, iou.max(1))
    turned = torch.from_numpy(x) @ rotation(10, 0)
    level = np.quantile(_cells(turned.numpy(), range(len(x))), 0.9, axis=0)
    known = brute(turned.numpy(), concepts, level)
    iou = known["inter"] / np.maximum(known["unit"][:, None] + known["truth"] - known["inter"], 1)
    assert np.allclose(one.controls["rotated"].iou, iou.max(1), atol=2e-3)
    assert one.best[2] > max(c.iou.max() for c in one.controls.values())
    assert "labels of other pictures" in str(one)


@pytest.mark.parametrize("memory", [2.0, 1e-5])
def test_rotated_masks_are_as_large_as_those_of_the_units(made, memory):
    from mmxai.methods.dissect import thresholds
    from mmxai.methods.dissect.passes import Cells
    from mmxai.methods.dissect.sources import Source

    store, x, _ = made
    config = DissectConfig(sites=(SITE,), rule="absolute", absolute=0.8, memory=memory)
    cells, own = Cells(store, store[SITE].space), Source.of(store, SITE)
    mine = thresholds.find(own, cells, config)
    theirs = thresholds.matched(own.rotated(0), own, mine, cells, config)
    held = _cells(x, range(len(x)))
    turned = held @ rotation(10, 0).numpy()
    a, b = (held > 0.8).sum(0), (turned > theirs.values.numpy()).sum(0)
    assert a[0] == 0 and b[0] == 0 and a[5] > 10
    assert np.abs(a - b).max() <= (1 if memory == 2.0 else 60)


def test_pairs_and_rotations():
    order = np.array([4, 9, 2, 17, 3])
    pairs = Pairs(order, 1)
    others = [pairs(int(i)) for i in order]
    assert sorted(others) == sorted(order) and all(a != b for a, b in zip(order, others, strict=True))
    with pytest.raises(ArgumentError, match="two or more"):
        Pairs(order[:1], 0)
    q = rotation(12, 3).double()
    assert torch.allclose(q @ q.T, torch.eye(12, dtype=torch.float64), atol=1e-6)


def test_groups_of_units_and_several_sites_give_the_same(tmp_path):
    x = make(tmp_path / "a", units=10)
    with open_store(tmp_path / "a") as store:
        options = dict(bootstrap=20, controls=("shuffled", "rotated"), held_out=0.3)
        whole = dissect(store, Maps(len(x)), DissectConfig(**(PLAIN | options)))[SITE]
        # Some 10 KiB a unit: three groups of units, a pass each.
        small = DissectConfig(**(PLAIN | options | dict(memory=4e4 / (1 << 30))))
        equal(dissect(store, Maps(len(x)), small)[SITE], whole)


def test_bootstrap_is_that_of_pictures(made):
    """Intervals against weights on the brute-force counts of each picture."""
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**(PLAIN | dict(bootstrap=300, seed=5))))[SITE]
    samples = [i for i in range(len(x)) if i not in concepts.unknown]
    each = [brute(x, concepts, one.threshold, [i]) for i in samples]
    keys = [np.array([5, i], np.uint64) for i in samples]
    weights = np.stack([np.random.Generator(np.random.Philox(key=k)).poisson(1.0, 300) for k in keys], 1)
    for u, rank in ((2, 0), (5, 0), (7, 2)):
        k = one.candidates[u, rank]
        inter = np.stack([known["inter"][u, k] for known in each])
        union = np.stack([known["unit"][u] + known["truth"][k] for known in each]) - inter
        found = (weights @ inter) / np.maximum(weights @ union, 1)
        assert np.allclose(np.quantile(found, [0.025, 0.975]), (one.low[u, rank], one.high[u, rank]))
    assert one.low[2, 0] <= one.best[2] <= one.high[2, 0] and np.isnan(one.low[0]).all()
    spread = weights.mean(0)
    assert abs(spread.mean() - 1) < 0.05 and abs(weights.var() - 1) < 0.1


def test_highest_pictures(made):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(**(PLAIN | dict(top=5, held_out=0.3, bootstrap=0))))[SITE]
    rows = store[SITE].rows.gather(one.top_rows[2])
    assert (rows.y >= 0).all()
    values = store[SITE].gather(one.top_rows[2], torch.float32)[:, 2].numpy()
    assert np.array_equal(values, one.top_values[2])
    views = [x[i, t, :, 2].max() for i in range(len(x)) if i not in concepts.unknown for t in range(2)]
    assert np.array_equal(one.top_values[2], np.sort(views)[::-1][:5].astype(np.float32))


def test_sparse_units_count_as_the_dense_ones(tmp_path):
    """A topk store: masks are what is above 0, absent entries are 0 in every figure."""
    path, dense = tmp_path / "topk", tmp_path / "dense"
    site = "vision.1.mlp_post.sae"
    x = make(path, dtype="topk", site=site, topk=4)
    with open_store(path) as store:
        held = store[site].gather(np.arange(len(store[site])), torch.float32)
        assert ((held != 0).sum(1) <= 4).all()
        concepts = Maps(len(x))
        options = PLAIN | dict(sites=(site,), bootstrap=20, min_fired=5)
        one = dissect(store, concepts, DissectConfig(**options))[site]
        values = held.unflatten(0, (len(x), 2, -1))[:, :, 1:].numpy()
        expected = brute(values, concepts, np.zeros(10))
        same(one.scored, expected)
        assert one.how == "above 0" and one.kind == "latent" and (one.threshold == 0).all()
        with create_store(dense, {site: 10}, dtype="float32", samples_per_part=5, durable=False) as writer:
            stored = [
                {"key": f"p{i}", "size": list(SIZES[i % 3]), "tiles": tiles(SIZES[i % 3])}
                for i in range(len(x))
            ]
            order = np.lexsort(
                (np.arange(len(store[site])), store[site].rows.gather(np.arange(len(held))).sample)
            )
            table = store[site].rows.gather(order)
            writer.write(stored, {site: held[torch.from_numpy(order)]}, table)
        with open_store(dense) as other:
            two = dissect(other, concepts, DissectConfig(**options))[site]
        for name in ("table", "fired", "label"):
            assert np.array_equal(getattr(one.scored, name), getattr(two.scored, name))
        assert np.allclose(one.scored.along, two.scored.along) and np.allclose(
            one.low, two.low, equal_nan=True
        )
        rows = one.top_values > 0
        assert np.array_equal(one.top_values[rows], two.top_values[rows])
        assert one.rare.sum() == ((one.fired > 0) & (one.fired < 5)).sum()
        quantile = dissect(store, concepts, DissectConfig(**(options | dict(nonzero=True))))[site]
        cells = _cells(values, range(len(x)))
        for u in range(1, 10):
            own = cells[:, u][cells[:, u] != 0]
            if len(own):
                assert np.isclose(quantile.threshold[u], np.quantile(own, 0.9), atol=1e-6)
        same(quantile.scored, brute(values, concepts, quantile.threshold))
        assert "not 0" in quantile.how


def test_cells_of_high_norm_are_left_out(tmp_path):
    x = make(tmp_path / "a")
    concepts = Maps(len(x))
    with open_store(tmp_path / "a") as store:
        config = DissectConfig(**(PLAIN | dict(high_norm=1.3)))
        one = dissect(store, concepts, config)[SITE]
        norm = np.linalg.norm(x, axis=-1)
        median = np.median(np.linalg.norm(_cells(x, range(len(x))), axis=-1))
        assert np.isclose(one.norm, 1.3 * median, rtol=0.02) and 0 < one.excluded < 0.3
        kept = np.where((norm <= one.norm)[..., None], x, -np.inf)
        expected = brute(kept, concepts, one.threshold)
        # A pixel whose cell is left out counts nowhere, neither for masks nor for labels.
        seen = ~np.isinf(expected["values"]).any(1)
        assert (~seen).sum() > 0
        assert np.array_equal(one.scored.inter, expected["inter"])
        assert np.array_equal(one.scored.truth, expected["have"][seen][:, :CLASSES].sum(0))
        assert one.scored.pixels == seen.sum()
        with pytest.raises(ArgumentError, match="bilinear"):
            DissectConfig(**(PLAIN | dict(high_norm=1.3, mode="bilinear")))


def test_sites_of_several_spaces_and_heads(tmp_path):
    """Maps of another grid beside patches, rows that are no cells, and heads by their norms."""
    pictures, z, pooled, maps = 6, "vision.0.z", "vision.embeds", "module:act"
    draw = torch.Generator().manual_seed(0)
    tile = {"affine": [0.5, 0, 0, 0, 0.5, 0], "grid": [4, 4]}

    def rows(side):
        place = torch.arange(side * side).repeat(pictures)
        sample = torch.arange(pictures).repeat_interleave(side * side)
        return Rows.make(sample=sample, position=place, y=place // side, x=place % side)

    spaces = {"vision": {z: 6}, "vision.pooled": {pooled: 3}, "module.2x2": {maps: 5}}
    x = {site: torch.randn(pictures * n, width, generator=draw) for site, n, width in
         ((z, 16, 6), (pooled, 1, 3), (maps, 4, 5))}  # fmt: skip
    with create_store(tmp_path / "a", spaces, dtype="float32", durable=False) as writer:
        stored = [{"key": str(i), "size": [8, 8], "tiles": [tile]} for i in range(pictures)]
        tables = {
            "vision": rows(4),
            "module.2x2": rows(2),
            "vision.pooled": Rows.make(sample=torch.arange(pictures)),
        }
        writer.write(stored, x, tables)

    class Halves(Maps):
        """Left or right, of 8 x 8 pixels; of the last picture a map that says nothing."""

        def labels(self, sample):
            made = np.zeros((1, 8, 8), np.int32)
            made[:, :, 4:] = 1
            if sample == pictures - 1:
                made[:] = -1
            return ImageLabels(made, np.zeros(0, np.int64), np.array([True, False, False]))

    with open_store(tmp_path / "a") as store:
        options = dict(controls=(), bootstrap=10, rule="absolute", absolute=0.7)
        found = dissect(store, Halves(1), DissectConfig(heads=2, **options))
        assert list(found.sites) == [z, maps] and found[z].kind == "head" and found[z].units == 2
        norms = x[z].unflatten(1, (2, 3)).norm(dim=2).reshape(pictures, 4, 4, 2)
        masks = (norms > 0.7).numpy()[:-1]
        left = 4 * masks[:, :, :2].sum((0, 1, 2))
        assert np.array_equal(found[z].scored.inter[:, 0], left)
        masks = (x[maps].reshape(pictures, 2, 2, 5) > 0.7).numpy()
        assert np.array_equal(found[maps].scored.inter[:, 1], 16 * masks[:-1, :, 1].sum((0, 1)))
        assert np.array_equal(found[maps].scored.unit, 16 * masks.sum((0, 1, 2)))
        with pytest.raises(SelectionError, match="none of whose rows"):
            dissect(store, Halves(1), DissectConfig(sites=("*.embeds",)))
        with pytest.raises(ArgumentError, match="row space"):
            dissect(store, Halves(1), DissectConfig(sites=(maps,), high_norm=2, norm_site=z))


def test_untrained_control(tmp_path):
    x = make(tmp_path / "a")
    make(tmp_path / "b", seed=3)
    make(tmp_path / "c", pictures=9)
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b, open_store(tmp_path / "c") as c:
        found = dissect(a, Maps(len(x)), DissectConfig(**PLAIN), untrained=b)[SITE]
        alone = dissect(b, Maps(len(x)), DissectConfig(**PLAIN))[SITE]
        assert np.array_equal(found.controls["untrained"].iou, alone.best)
        with pytest.raises(DataError, match="other data"):
            dissect(a, Maps(len(x)), DissectConfig(**PLAIN), untrained=c)


def test_a_run_goes_on_where_it_was(tmp_path):
    x = make(tmp_path / "a")
    concepts = Maps(len(x))
    config = DissectConfig(**(PLAIN | dict(held_out=0.4, bootstrap=10, controls=("shuffled",), save_every=1)))
    with open_store(tmp_path / "a") as store:
        straight = dissect(store, concepts, config)[SITE]

        class Stops(Maps):
            left = 0

            def labels(self, sample):
                Stops.left -= 1
                if Stops.left < 0:
                    raise DataError("stopped")
                return super().labels(sample)

        stopped = 0
        for budget in range(6, 60, 6):
            Stops.left = budget
            try:
                resumed = dissect(store, Stops(len(x)), config, state=tmp_path / "state")[SITE]
                break
            except DataError:
                stopped += 1
        assert stopped >= 2
        equal(resumed, straight)
        Stops.left = 0  # nothing is read again
        equal(dissect(store, Stops(len(x)), config, state=tmp_path / "state")[SITE], straight)
        told = replace(config, detector=0.1, min_fired=3, confidence=0.5, save_every=7)  # only told otherwise
        other = dissect(store, Stops(len(x)), told, state=tmp_path / "state")[SITE]
        narrower = other.high - other.low < straight.high - straight.low  # of ten resamples
        assert narrower.any() and np.array_equal(other.iou, straight.iou) and other.level == 0.1
        with pytest.raises(CheckpointError, match="held_out"):
            dissect(store, concepts, DissectConfig(**PLAIN), state=tmp_path / "state")


def test_saves(made, tmp_path):
    from safetensors.numpy import load_file

    store, _, concepts = made
    found = dissect(store, concepts, DissectConfig(**(PLAIN | dict(held_out=0.4))))
    path = found.save(tmp_path / "dissect.json")
    assert json.loads(path.read_text())["sites"][SITE]["how"] == found[SITE].how
    arrays = load_file(path.with_suffix(".safetensors"))
    assert np.array_equal(arrays[f"{SITE}/scored.table"], found[SITE].scored.table)
    assert len(found.to_pandas()) == 10 and SITE in str(found)
    found.plot()
    found[SITE].plot()
    with pytest.raises(ArgumentError, match="expected one of"):
        found["other"]


def test_refuses(made, tmp_path):
    _, _, concepts = made
    for wrong in (
        dict(quantile=0),
        dict(controls=("none",)),
        dict(sites=()),
        dict(mode="cubic"),
        dict(top=-1),
    ):
        with pytest.raises(ArgumentError, match="expected"):
            DissectConfig(**wrong)
    with create_store(tmp_path / "text", {"text.0.mlp_post": 2}, durable=False) as writer:
        rows = Rows.make(sample=torch.arange(4), position=0, token_id=3)
        writer.write([str(i) for i in range(4)], {"text.0.mlp_post": torch.ones(4, 2)}, rows)
    with open_store(tmp_path / "text") as text, pytest.raises(SelectionError, match="cell of a picture"):
        dissect(text, concepts, DissectConfig(sites=("text.0.mlp_post",)))
    with create_store(tmp_path / "sizes", {"vision.0.x": 2}, durable=False) as writer:
        rows = Rows.make(sample=torch.arange(4), position=0, y=0, x=0, image=0)
        writer.write([str(i) for i in range(4)], {"vision.0.x": torch.ones(4, 2)}, rows)
    with open_store(tmp_path / "sizes") as bare, pytest.raises(DataError, match="size None"):
        dissect(bare, concepts, DissectConfig(sites=("vision.0.x",)))


@pytest.mark.parametrize("where", ["sketch", "sums", "counts"])
def test_nan_is_named(tmp_path, where):
    x = make(tmp_path / "a")
    with open_store(tmp_path / "a") as store:
        rows = store[SITE].rows.gather(np.arange(len(store[SITE])))
        values = store[SITE].gather(np.arange(len(rows)), torch.float32).clone()
        stored = [
            {"key": f"p{i}", "size": list(SIZES[i % 3]), "tiles": tiles(SIZES[i % 3])} for i in range(len(x))
        ]
    values[(rows.sample == 7) & (rows.y == 1), 4] = torch.nan
    with create_store(tmp_path / "b", {SITE: 10}, dtype="float32", durable=False) as writer:
        writer.write(stored, {SITE: values}, rows)
    rule = {} if where == "sketch" else dict(rule="absolute", correlation=where == "sums", auprc=False)
    with (
        open_store(tmp_path / "b") as store,
        pytest.raises(NonFiniteError, match="unit 4" if where == "sketch" else "sample 7"),
    ):
        dissect(store, Maps(len(x)), DissectConfig(**(PLAIN | rule)))
