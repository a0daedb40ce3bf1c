"""Harvests into int8 and topk stores."""

import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, PlanMismatchError
from mmxai.harvesting import harvest, planning
from mmxai.store.verify import verify
from tests.harvesting.test_harvest import files_of

SITE = "vision.1.resid_post"
OPTIONS = {"sites": SITE, "samples_per_part": 20, "batch_size": 8}


@pytest.fixture(scope="module")
def loud(clip_folder):
    """A model with one column of its residual stream a hundred times the others."""
    model = mmxai.load_model(str(clip_folder))
    with torch.no_grad():
        model.module.vision_model.encoder.layers[0].mlp.fc2.bias[5] += 300
    return model


@pytest.fixture(scope="module")
def plain(loud, world, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "s"
    harvest(loud, world, store=path, **OPTIONS)
    return path


def test_int8_finds_the_outlier_column(loud, world, plain, tmp_path):
    report = harvest(loud, world, store=tmp_path / "s", store_dtype="int8", **OPTIONS)
    assert report.complete and verify(tmp_path / "s").ok
    with mmxai.open_store(plain) as store, mmxai.open_store(tmp_path / "s") as small:
        assert small.plan.site(SITE).outliers == (5,)
        assert torch.equal(store.rows["vision"].read().table, small.rows["vision"].read().table)
        want, got = store[SITE][:].float(), small[SITE].gather(range(len(small[SITE])), torch.float32)
        assert torch.equal(want[:, 5], got[:, 5])
        want[:, 5] = got[:, 5] = 0
        assert ((want - got).abs() <= want.abs().amax(1, keepdim=True) / 127 * 0.50001).all()
        assert report.nbytes == sum(small[s].nbytes for s in small) and report.staged == store[SITE].nbytes
        for name in ("mean", "var", "topk_values", "topk_rows"):
            assert torch.equal(getattr(store.stats[SITE], name), getattr(small.stats[SITE], name))


def test_topk_keeps_the_largest(loud, world, plain, tmp_path):
    options = OPTIONS | {"store_dtype": "topk", "topk": 6}
    assert harvest(loud, world, store=tmp_path / "s", **options).complete
    with mmxai.open_store(plain) as store, mmxai.open_store(tmp_path / "s") as small:
        want = store[SITE][:]
        values, columns = small[SITE].entries(range(len(want)))
        assert torch.equal(values, want.gather(1, columns))
        assert torch.equal(values.abs().float(), want.abs().float().topk(6).values)
    with pytest.raises(PlanMismatchError, match=r"\.k: store has 6, this run asks 7"):
        harvest(loud, world, store=tmp_path / "s", **options | {"topk": 7})
    with pytest.raises(ArgumentError, match="with k=None"):
        harvest(loud, world, store=tmp_path / "t", **options | {"topk": None})


@pytest.mark.parametrize("profile", [{"store_dtype": "int8"}, {"store_dtype": "topk", "topk": 6}])
def test_made_anew_it_is_the_same(loud, world, tmp_path, monkeypatch, profile):
    path = tmp_path / "s"
    harvest(loud, world, store=path, **OPTIONS, **profile)
    before = files_of(path)
    for part in (1, 3):
        (path / f"mmxai/commits/{part}.json").unlink()
    monkeypatch.setattr(planning, "outlier_columns", None)  # those of the store hold
    report = harvest(loud, world, store=path, **OPTIONS, **profile)
    assert report.written == 2 and files_of(path) == before


def test_the_estimate_knows_the_bytes(loud, world, tmp_path):
    def nbytes(**profile):
        options = {**OPTIONS, **profile}
        return harvest(loud, world, store=tmp_path / "s", dry_run=True, stats=False, **options)

    rows = 90 * 17
    plain, int8, topk = nbytes(), nbytes(store_dtype="int8"), nbytes(store_dtype="topk", topk=6)
    assert plain.nbytes - int8.nbytes == rows * (64 - (32 + 4 + 2))
    assert plain.nbytes - topk.nbytes == rows * (64 - 24)
    assert int8.files == plain.files + 2 * int8.parts and topk.files == plain.files + topk.parts
