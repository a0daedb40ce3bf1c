"""Counts of a store against brute force, pixel by pixel."""

import numpy as np
import pytest
import torch

from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.store import open_store
from tests.methods.dissect.stores import SITE, Maps, brute, make

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


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_counts_are_those_of_every_pixel(made, mode):
    store, x, concepts = made
    one = dissect(store, concepts, DissectConfig(mode=mode, **PLAIN))[SITE]
    expected = brute(x, concepts, one.threshold, mode=mode)
    same(one.scored, expected)
    assert one.unannotated == 1 and one.scored.pictures == 2 * (len(x) - 1)
    assert one.scored is one.chosen
    for area in ("everywhere", "annotated"):
        unit = expected["unit"][:, None] if area == "everywhere" else expected["unit_in"][:, concepts.category_of()]
        union = unit + expected["truth"] - expected["inter"]
        assert np.allclose(one.scored.iou(area), expected["inter"] / np.maximum(union, 1))
    assert (one.scored.iou("everywhere") < one.scored.iou("annotated")).any()
