"""A survey in streams against scipy, scikit-learn and plain numpy on the whole matrix."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from mmxai.errors import ArgumentError, NonFiniteError, SelectionError
from mmxai.methods.neurons import NeuronsConfig, neurons
from mmxai.methods.neurons.areas import Areas, Bins, bins_of, groups
from mmxai.methods.neurons.redundancy import linked
from mmxai.store import create_store, open_store
from tests.methods.neurons.conftest import CONSTANT, DETECTOR, SAMPLES, SITE, SPARSE, TWINS, UNITS


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("mmxai.store.units.BLOCK_VALUES", 37 * UNITS)


@pytest.fixture
def found(planted):
    return neurons(planted.store, SITE, NeuronsConfig(exemplars=6), planted.labels)


def patches(planted):
    kept = (planted.rows.y >= 0).numpy()
    return planted.x[kept].astype(np.float64), planted.y[kept]


def test_moments(planted, found):
    x = planted.x.astype(np.float64)
    assert found.rows == len(x) and found.samples == SAMPLES and found.kind == "neuron"
    alive = [u for u in range(UNITS) if u != CONSTANT]
    assert np.allclose(found.mean, x.mean(0)) and np.allclose(found.std, x.std(0), atol=1e-9)
    assert np.allclose(found.kurtosis[alive], stats.kurtosis(x[:, alive]), rtol=1e-6, atol=1e-6)
    assert np.isnan(found.kurtosis[CONSTANT]) and found.std[CONSTANT] == 0
    assert np.allclose(found.density, (x > 0).mean(0)) and (found.high == x.max(0)).all()
    kinds = planted.rows.token_type.numpy()
    assert np.allclose(found.by_type["cls"], x[kinds == 0].mean(0)) and found.modality is None


def test_auc_and_correlation_are_those_of_scikit_learn_and_scipy(planted, found):
    x, y = patches(planted)
    told = found.labels
    assert told.rows == len(x) and told.positive.tolist() == y.sum(0).tolist()
    for u in range(UNITS):
        for k in range(3):
            exact = roc_auc_score(y[:, k], x[:, u])
            bound = told.auc_error[u, k]
            assert abs(told.auc[u, k] - exact) <= bound + 2e-6
            if u != CONSTANT:
                assert np.isclose(
                    told.correlation[u, k], stats.pointbiserialr(y[:, k], x[:, u])[0], atol=1e-5
                )
    # 16 bits hold every value that is stored in 16 bits; of float32 the bound is what ties could hide.
    assert (told.auc_error[:, :3].max() == 0) == (planted.dtype != "float32")
    assert told.auc_error[:, :3].max() < 0.001 and np.isnan(told.auc[:, 3]).all()
    assert (told.correlation[CONSTANT] == 0).all() and (told.auc[CONSTANT, :3] == 0.5).all()


def test_groups_of_units_give_the_same(planted, found):
    one = 21 * Bins(5, 16).count  # of one unit by 4 labels
    passes = []
    again = neurons(planted.store, SITE, NeuronsConfig(memory=5 * one), planted.labels, passes.append).labels
    assert len(groups(UNITS, 4, 5 * one)) == 3 and sum("further pass" in what for what in passes) == 2
    off = np.abs(again.auc - found.labels.auc)[:, :3]
    assert (off <= again.auc_error[:, :3] + found.labels.auc_error[:, :3] + 1e-6).all()
    assert 0 < again.auc_error[:, :3].max() < 0.02
    with pytest.raises(ArgumentError, match="one unit"):
        groups(4, 4, one - 1)


def test_the_planted_unit_comes_first_by_every_measure(found):
    for measure in ("auc", "correlation", "selectivity"):
        assert found.labels.ranking("told", measure)[0] == DETECTOR
    assert found.labels.auc[DETECTOR, 0] == 1 and found.labels.selectivity[DETECTOR, 0] == 1
    assert np.nanargmax(found.labels.index["pair"]) == DETECTOR
    assert found.labels.best["pair"][DETECTOR] == 0 and found.labels.best_units()["told"] == DETECTOR
    assert found.labels.ranking("leant")[0] == 4 and found.labels.ranking("nothing")[0] != DETECTOR
    assert "told" in str(found) and found.to_pandas().label[DETECTOR] == "told"


def test_selectivity_by_its_definition(planted, found):
    x, y = patches(planted)
    up = np.maximum(x, 0)
    one, none = (np.stack([up[y[:, k] == v].mean(0) for k in range(3)], 1) for v in (True, False))
    assert np.allclose(found.labels.selectivity[:, :3], (one - none) / (one + none), atol=1e-4)
    means = one[:, :2]
    expected = (means.max(1) - means.min(1)) / means.sum(1)
    assert np.allclose(found.labels.index["pair"], expected, atol=1e-5)
    assert (found.labels.best["pair"] == means.argmax(1)).all()


def test_exemplars(planted, found):
    x, sample = planted.x, planted.rows.sample.numpy()
    for u in range(UNITS):
        assert np.allclose(found.top_values[u], np.sort(x[:, u])[::-1][:6])
        assert np.allclose(x[found.top_rows[u], u], found.top_values[u])
        best = np.array([x[sample == s, u].max() for s in range(SAMPLES)])
        assert np.allclose(found.sample_values[u], np.sort(best)[::-1][:6])
        assert np.allclose(x[found.sample_rows[u], u], found.sample_values[u])
        assert len(set(sample[found.sample_rows[u]])) == 6


def test_strata_are_drawn_from_their_bands(planted, found):
    for u in range(UNITS):
        for b, (low, high) in enumerate(zip(found.strata.edges[u], found.strata.edges[u][1:], strict=False)):
            rows, values = found.strata.rows[u, b], found.strata.values[u, b]
            there = rows >= 0
            assert np.allclose(planted.x[rows[there], u], values[there])
            assert ((values[there] >= low - 1e-6) & (values[there] <= high + 1e-6)).all()
    assert (found.strata.values[SPARSE][found.strata.rows[SPARSE] >= 0] > 0).all()
    assert found.strata.sampled == found.rows and (found.strata.histogram.sum(1) == found.rows).all()
    other = neurons(planted.store, SITE, NeuronsConfig(seed=1)).strata
    assert (other.rows[0] != found.strata.rows[0]).any()


def test_twins_are_near_duplicates(planted, found):
    twins = found.redundancy
    assert twins.groups == [sorted(TWINS)] and twins.nearest[TWINS[0], 0] == TWINS[1]
    r = np.corrcoef(planted.x[:, [u for u in range(UNITS) if u != CONSTANT]].T)
    assert np.isclose(twins.correlation[0, 0], r[0, 1:][np.abs(r[0, 1:]).argmax()], atol=1e-5)


def test_filters(planted):
    only = neurons(planted.store, SITE, NeuronsConfig(tokens="patch", split="test"))
    assert set(only.by_type) == {"patch"} and 0 < only.samples < SAMPLES / 3
    with pytest.raises(SelectionError, match="no row is left"):
        neurons(planted.store, SITE, NeuronsConfig(tokens="text"))


def test_one_pass_serves_all_that_labels_tell(planted, monkeypatch):
    """Every row is gathered once for the statistics; then rows are read at random for bands and twins."""
    asked = []
    read = type(planted.store[SITE]).gather
    monkeypatch.setattr(
        type(planted.store[SITE]), "gather", lambda s, rows, *o: asked.append(rows) or read(s, rows, *o)
    )
    monkeypatch.setattr("mmxai.methods.neurons.survey.strata", lambda *a: None)
    monkeypatch.setattr("mmxai.methods.neurons.survey.redundancy", lambda *a, **o: None)
    found = neurons(planted.store, SITE, labels=planted.labels)
    assert found.labels.auc[DETECTOR, 0] == 1
    assert np.concatenate(asked).tolist() == list(range(SAMPLES * 5))


def test_bins_order_as_values_do():
    tiny = 2.0**-100
    x = np.array([-np.inf, -3.5, -tiny, -0.0, 0.0, tiny, 1e-3, 1.0, 1.001, 2.0, 3e38], np.float32)[None]
    raw = (x + 0).view(np.uint32)
    for bins in (Bins(7, 256), Bins(7, 16), Bins(10, 40), Bins(5, 16)):
        keys, mixed = (v[0] for v in bins.of(raw, bins.window(raw[:, 1:-1])))
        assert (np.diff(keys) >= 0).all() and keys.min() >= 0 and keys.max() < bins.count
        assert keys[3] == keys[4] == bins.half + 2 and not mixed[4] and not mixed[9]
        assert (
            keys[5] > keys[4] and mixed[8] and not mixed[7] and (keys[8] == keys[7]) == (bins.mantissa < 10)
        )
        assert mixed[5] == mixed[2] == (bins.octaves < 256)


def test_memory_takes_octaves_first_and_then_bits():
    import torch

    assert bins_of(torch.bfloat16, 10, 3, 1 << 30) == Bins(7, 256)
    assert bins_of(torch.float16, 10, 3, 1 << 30) == Bins(10, 256)
    few = bins_of(torch.bfloat16, 768, 27, 1 << 29)
    assert few.mantissa == 7 and 16 <= few.octaves < 256
    assert bins_of(torch.float32, 3072, 80, 1 << 30) == Bins(5, 16)
    for units, labels in ((10, 3), (768, 27), (3072, 80)):
        assert bins_of(torch.float32, units, labels, 1 << 30).count * (4 * labels + 5) * units <= 1.1 * (
            1 << 30
        )


def test_what_leaves_the_window_is_said_to_be_inexact():
    """A first block of small values sets the window; later ones above it tie, and the error owns up."""
    import torch

    made = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(500, 1, generator=made) * 1e-3, torch.randn(500, 1, generator=made) * 1e3])
    y = np.concatenate([np.arange(500) % 2 == 0, (x[500:, 0] > 0).numpy()])[:, None]
    areas = Areas(range(1), 1, Bins(7, 16))
    for start in (0, 500):
        areas.add(x[start : start + 500], y[start : start + 500])
    auc, error = areas.auc()
    exact = roc_auc_score(y[:, 0], x[:, 0])
    assert error[0, 0] > 0 and abs(auc[0, 0] - exact) <= error[0, 0] + 1e-6


def test_few_products_at_a_time_find_the_same_twins(planted, found):
    less = neurons(planted.store, SITE, NeuronsConfig(memory=32 * UNITS * 5)).redundancy
    assert less.groups == found.redundancy.groups
    assert np.allclose(less.correlation, found.redundancy.correlation, atol=1e-6)


def test_refuses(tmp_path, planted):
    import torch

    with pytest.raises(ArgumentError, match="exemplars=0"):
        NeuronsConfig(exemplars=0)
    with pytest.raises(ArgumentError, match="divisor"):
        neurons(planted.store, SITE, NeuronsConfig(heads=5))
    with pytest.raises(SelectionError, match="no row with a label"):
        neurons(planted.store, SITE, NeuronsConfig(tokens="cls"), planted.labels)
    with create_store(tmp_path / "bad", {"a": 2}, durable=False) as writer:
        writer.write(["x", "y"], {"a": torch.tensor([[1.0, 2], [torch.nan, 0]])})
    with open_store(tmp_path / "bad") as store, pytest.raises(NonFiniteError, match="row 1"):
        neurons(store, "a")


def test_a_label_that_no_row_has_ranks_nothing(found):
    told = found.labels
    assert told.positive[3] == 0 and np.isnan(told.selectivity[:, 3]).all()
    assert np.isfinite(told.selectivity[:, :3]).all()
    for measure in ("auc", "correlation", "selectivity"):
        with pytest.raises(ArgumentError, match="'nowhere', which 0 of"):
            told.ranking("nowhere", measure)


@pytest.mark.filterwarnings("error")
def test_units_that_never_change(tmp_path):
    """Nearest are others, though none correlates; of no unit at all there is no median kurtosis."""
    with create_store(tmp_path / "same", {"a": 3}, durable=False) as writer:
        writer.write([str(i) for i in range(9)], {"a": torch.ones(9, 3)})
    with open_store(tmp_path / "same") as store:
        found = neurons(store, "a", NeuronsConfig(near=2))
    assert [sorted(near) for near in found.redundancy.nearest.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert found.redundancy.groups == [] and "median kurtosis -" in str(found)


def test_units_are_linked_across_groups_of_them():
    """Pairs that come in several calls, those of one component in any order."""
    links = np.arange(8)
    for a, b in (([5], [6]), ([0, 7], [3, 5]), ([6, 1], [3, 1])):
        links = linked(links, np.array(a), np.array(b))
    assert len(set(links[[0, 3, 5, 6, 7]])) == 1 and len(set(links)) == 4
