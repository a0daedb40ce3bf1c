"""Tables in the published columns: what is written is read again, and says what was counted."""

import numpy as np
import pytest

from mmxai.errors import DataError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.tables import layer_table, published, read_published, write_published
from mmxai.store import open_store
from tests.methods.dissect.stores import CATEGORIES, SITE, Maps, make


@pytest.fixture(scope="module", params=["everywhere", "annotated"])
def found(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "acts.zarr"
    x = make(path)
    with open_store(path) as store:
        config = DissectConfig(sites=(SITE,), quantile=0.1, bootstrap=0, area=request.param)
        return dissect(store, Maps(len(x)), config)[SITE]


def test_tables_come_back(found, tmp_path):
    table = read_published(write_published(found, tmp_path / "tally.csv"))
    assert table.unit.tolist() == list(range(1, 11)) and table.categories == list(CATEGORIES)
    for category in CATEGORIES:
        assert np.allclose(table.recomputed(category), table.iou[category], atol=1e-8)
        own = found.category_best(category)
        assert [
            c and found.concepts[k].name == c for c, k in zip(table.label[category], own, strict=True) if c
        ]
    label, iou = table.labels()
    assert np.allclose(iou, found.best) and np.allclose(table.score, found.best)
    assert list(label) == [found.concepts[k].name if k >= 0 else "" for k in found.label]
    frame = published(found)
    some = found.label >= 0
    assert (frame["category"][some] == [found.concepts[k].category for k in found.label[some]]).all()
    level = 0.1
    alive = found.fired >= found.min_fired
    assert table.detectors(level)[0] == ((found.best > level) & alive).sum()


def test_layer_table(found):
    row = layer_table([found]).iloc[0]
    assert row["detectors"] == found.detectors().sum() and row["labels"] == found.unique()
    assert sum(row[f"{c} detectors"] for c in CATEGORIES) == row["detectors"]
    assert row["shuffled detectors"] == found.controls["shuffled"].detectors(0.04)


def test_refuses(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("unit,label\n1,x\n")
    with pytest.raises(DataError, match="no columns"):
        read_published(path)
    path.write_text(
        "unit,category,label,score,a-label,a-truth,a-activation,a-intersect,a-iou\n1,a,x,y,x,1,1,1,1\n"
    )
    with pytest.raises(DataError, match="'score'"):
        read_published(path)
    with pytest.raises(DataError, match="No such file"):
        read_published(tmp_path / "none.csv")
