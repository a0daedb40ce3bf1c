"""Outlines of exemplars are the masks that were counted: of tiles, heads, latents, less what was left out."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.report.dissect.exemplars import exemplars
from mmxai.report.dissect.outlines import smooth_paths
from mmxai.store import open_store
from tests.methods.dissect.stores import GRID, SITE, Maps, make
from tests.report.dissect.outlined import cells

PICTURES = 12


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "acts.zarr"
    values = make(path, PICTURES)
    with open_store(path) as store:
        yield store, values.numpy() if isinstance(values, torch.Tensor) else values


def found_of(store, site=SITE, **options):
    config = {"quantile": 0.1, "bootstrap": 0, "controls": (), "top": 5, **options}
    return dissect(store, Maps(PICTURES), DissectConfig(**config))[site]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_outlines_are_of_the_values_that_were_stored(held, mode):
    store, values = held
    found = found_of(store, mode=mode)
    shown = exemplars(found, store)
    looked = 0
    for unit, at in np.argwhere(shown.sample >= 0):
        sample, tile = shown.sample[unit, at], shown.tile[unit, at]
        field = values[sample, tile, :, unit].reshape(GRID)
        path = shown.path[unit, at]
        if mode == "nearest":
            assert np.array_equal(cells(path, *GRID), field > found.threshold[unit])
        else:
            assert path == smooth_paths(field[None], found.threshold[unit : unit + 1])[0]
        assert field.max() == found.top_values[unit, at]
        looked += bool(path)
    assert looked > 30 and (shown.sample[found.top_rows < 0] == -1).all()


def test_outlines_of_heads(tmp_path):
    values = make(tmp_path / "z.zarr", PICTURES, site="vision.1.z")
    norm = np.linalg.norm(values.reshape(*values.shape[:3], 5, -1), axis=-1)
    with open_store(tmp_path / "z.zarr") as store:
        found = found_of(store, "vision.1.z", heads=5)
        shown = exemplars(found, store, heads=5)
        for unit, at in np.argwhere(shown.sample >= 0):
            field = norm[shown.sample[unit, at], shown.tile[unit, at], :, unit].reshape(GRID)
            assert np.array_equal(cells(shown.path[unit, at], *GRID), field > found.threshold[unit])
        with pytest.raises(ArgumentError, match="expected the heads"):
            exemplars(found, store)


def test_cells_left_out_for_their_norm_are_in_no_outline(held):
    store, values = held
    found = found_of(store, high_norm=1.2)
    shown, norm = exemplars(found, store), np.linalg.norm(values, axis=-1)
    left_out = 0
    for unit, at in np.argwhere(shown.sample >= 0):
        where = shown.sample[unit, at], shown.tile[unit, at]
        above = values[(*where, slice(None), unit)] > found.threshold[unit]
        kept = norm[where] <= found.norm
        left_out += (above & ~kept).sum()
        assert np.array_equal(cells(shown.path[unit, at], *GRID), (above & kept).reshape(GRID))
    assert left_out


def test_outlines_of_latents_are_where_they_are_above_0(tmp_path):
    values = make(tmp_path / "codes.zarr", PICTURES, dtype="topk", topk=3)
    with open_store(tmp_path / "codes.zarr") as store:
        found = found_of(store, min_fired=1)
        shown = exemplars(found, store)
        x = torch.as_tensor(values).bfloat16().float()
        keep = torch.zeros_like(x).scatter_(-1, x.abs().topk(3, -1).indices, 1)
        x = (x * keep).numpy()
        for unit, at in np.argwhere(shown.sample >= 0):
            field = x[shown.sample[unit, at], shown.tile[unit, at], :, unit].reshape(GRID)
            assert np.array_equal(cells(shown.path[unit, at], *GRID), field > 0)
        assert (shown.path != "").sum() > 20
