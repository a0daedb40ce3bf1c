"""Forms of a store's units: a unit that was planted, and counts against every pixel."""

import json

import numpy as np
import pandas
import pytest
import torch

from mmxai.concepts import Concept, Concepts, ImageLabels
from mmxai.errors import ArgumentError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.tables import read_published, write_published
from mmxai.store import create_store, open_store
from mmxai.store.select import split_of
from mmxai.types import Rows
from tests.methods.dissect.stores import SITE, Maps, brute, make

PICTURES, SIDE = 60, 8
PLAIN = dict(sites=(SITE,), controls=(), bootstrap=0, auprc=False, top=0, exact=True, quantile=0.1, compose=3)


class Scenes(Concepts):
    """Two colours and three shapes, drawn cell by cell, each independent of the other; three pixels of a cell
    have no shape."""

    concepts = tuple(
        Concept(name, category, k)
        for k, (name, category) in enumerate(
            [
                ("red", "colour"),
                ("blue", "colour"),
                ("square", "shape"),
                ("circle", "shape"),
                ("star", "shape"),
            ]
        )
    )
    categories, about = ("colour", "shape"), "scenes"
    identity = {"source": "scenes"}  # noqa: RUF012

    def labels(self, sample):
        draw = np.random.default_rng([7, sample])
        colour, shape = draw.integers(-1, 2, (SIDE, SIDE)), draw.integers(-1, 3, (SIDE, SIDE))
        maps = np.stack([colour, np.where(shape < 0, -1, shape + 2)]).repeat(4, 1).repeat(4, 2)
        maps[1, ::4, 1:] = -1
        return ImageLabels(maps.astype(np.int32), np.zeros(0, np.int64), np.ones(2, bool))


def has(sample, concept):
    """bool `[cells]`."""
    maps = Scenes().labels(sample).maps[:, 2::4, 2::4]
    return (maps == concept).any(0).ravel()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "acts.zarr"
    draw, cells = torch.Generator().manual_seed(0), SIDE * SIDE
    x = torch.rand(PICTURES, cells, 6, generator=draw)
    for i in range(PICTURES):
        red, blue, square, circle = (torch.from_numpy(has(i, k)) for k in range(4))
        for unit, own in enumerate((red & ~square, square, (red | blue) & ~circle)):
            x[i, :, unit] = torch.where(own, 1 + x[i, :, unit], x[i, :, unit] - 1)
    x[..., 5] = -1
    place = torch.arange(cells).repeat(PICTURES)
    rows = Rows.make(
        sample=torch.arange(PICTURES).repeat_interleave(cells), position=place, image=0, y=place // SIDE,
        x=place % SIDE,
    )  # fmt: skip
    tile = {"affine": [1 / 4, 0, 0, 0, 1 / 4, 0], "grid": [SIDE, SIDE]}
    stored = [{"key": f"p{i}", "size": [32, 32], "tiles": [tile]} for i in range(PICTURES)]
    with create_store(path, {SITE: 6}, dtype="float32", durable=False) as writer:
        writer.write(stored, {SITE: x.reshape(-1, 6)}, rows)
    with open_store(path) as store:
        yield store


def test_planted_forms_are_found(planted, tmp_path):
    """red AND NOT square, on pictures that it was not searched on."""
    config = DissectConfig(**(PLAIN | dict(rule="absolute", absolute=0.0, held_out=0.3, compose_pictures=25)))
    found = dissect(planted, Scenes(), config)
    one = found[SITE]
    forms, names = one.forms, one.concepts
    assert forms.text(0, names) == "red AND NOT square" and forms.text(1, names) == "square"
    assert forms.text(2, names) in ("(red OR blue) AND NOT circle", "(blue OR red) AND NOT circle")
    # The pixels of a cell that have no shape: the row on top of each is no square, but of the mask.
    assert forms.iou[0] > 0.9 > one.best[0] and forms.iou[1] == forms.single[1] > 0.6
    assert forms.pictures == (split_of(np.arange(PICTURES), (0.7, 0.3, 0)) == 1).sum() < 25
    assert forms.text(5, names) == "" and forms.iou[5] == 0  # never above 0
    assert " OR " in forms.text(3, names)  # above 0 everywhere
    assert (forms.iou[:3] >= forms.single[:3]).all()
    # Where they are told.
    made = json.loads(found.save(tmp_path / "dissect.json").read_text())["sites"][SITE]["forms"]
    assert made["form"][0] == "red AND NOT square" and made["pictures"] == forms.pictures
    assert made["form_iou"][0] == pytest.approx(forms.iou[0])
    assert one.to_pandas()["form"][0] == "red AND NOT square"
    path = write_published(one, tmp_path / "table.csv")
    assert pandas.read_csv(path)["form-iou"][0] == pytest.approx(forms.iou[0])
    assert read_published(path).categories == ["colour", "shape"]
    assert "red AND NOT square" in str(one)


def _holds(form, have):
    out = None
    for concept, negated, either in form:
        own = have[:, concept] ^ negated
        out = own if out is None else out | own if either else out & own
    return out


@pytest.mark.parametrize("options", [{}, dict(held_out=0.4), dict(high_norm=1.3), dict(memory=1e-4)])
def test_forms_are_scored_pixel_by_pixel(tmp_path, options):
    """Tiles, crops, padding, pictures of which nothing is known, cells left out, groups of units."""
    x = make(tmp_path / "a")
    concepts = Maps(len(x))
    with open_store(tmp_path / "a") as store:
        one = dissect(store, concepts, DissectConfig(**(PLAIN | options)))[SITE]
        again = DissectConfig(**(PLAIN | options | dict(save_every=1)))
        state = tmp_path / "state"
        for _ in range(2):  # the second time from what was kept
            kept = dissect(store, concepts, again, state=state)[SITE]
            assert np.array_equal(kept.forms.terms, one.forms.terms)
            assert np.array_equal(kept.forms.iou, one.forms.iou) and kept.forms.pictures == one.forms.pictures
    side = None
    if one.held_out:
        side = np.flatnonzero(split_of(np.arange(len(x)), (0.6, 0.4, 0)) == 1)
    if one.norm is not None:
        norm = np.linalg.norm(x, axis=-1)
        x = np.where((norm <= one.norm)[..., None], x, np.nan)
    known = brute(x, concepts, one.threshold, side)
    seen = ~np.isnan(known["values"]).any(1)
    longer = 0
    for unit in range(1, 10):
        form = one.forms.form(unit)
        mask, own = known["masks"][seen, unit], _holds(form, known["have"][seen])
        assert one.forms.iou[unit] == pytest.approx((mask & own).sum() / (mask | own).sum())
        longer += len(form) > 1
        if side is None:
            assert one.forms.iou[unit] >= one.forms.single[unit] == pytest.approx(one.best[unit])
    assert longer >= 5 and one.forms.form(0) == ()


def test_sparse_units(tmp_path):
    site = "vision.1.mlp_post.sae"
    x = make(tmp_path / "a", dtype="topk", site=site, topk=4)
    concepts = Maps(len(x))
    with open_store(tmp_path / "a") as store:
        one = dissect(store, concepts, DissectConfig(**(PLAIN | dict(sites=(site,)))))[site]
        held = store[site].gather(np.arange(len(store[site])), torch.float32)
    known = brute(held.unflatten(0, (len(x), 2, -1))[:, :, 1:].numpy(), concepts, np.zeros(10))
    for unit in np.flatnonzero(one.fired):
        mask, own = known["masks"][:, unit], _holds(one.forms.form(unit), known["have"])
        assert one.forms.iou[unit] == pytest.approx((mask & own).sum() / (mask | own).sum())


def test_refuses(tmp_path):
    for wrong in (dict(mode="bilinear"), dict(area="annotated"), dict(compose=4), dict(compose_pictures=0)):
        with pytest.raises(ArgumentError, match="expected"):
            DissectConfig(**(PLAIN | wrong))
    make(tmp_path / "a")
    with open_store(tmp_path / "a") as store, pytest.raises(ArgumentError, match="fewer pictures"):
        dissect(store, Maps(12), DissectConfig(**(PLAIN | dict(memory=1e-6))))
