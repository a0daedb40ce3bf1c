"""A published site stays within its bytes: 200 MB for 32,768 units."""

import numpy as np
import pytest

from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.tables import published
from mmxai.report.dissect import dissect_pages
from mmxai.report.dissect.budget import LIMIT, distinct, plan
from mmxai.report.dissect.exemplars import Exemplars
from mmxai.report.dissect.sprites import sheets_of
from mmxai.store import open_store
from tests.report.dissect.planted import SITE, SIZE, Planted, make, picture


@pytest.mark.slow
def test_2000_units(tmp_path, capsys):
    """Latents, three pictures for every two of them: as 32,768 over ImageNet's 50,000 for validation."""
    units, pictures = 2000, 3000
    make(tmp_path / "acts.zarr", units, pictures, 600)
    concepts = Planted(pictures, 600)
    with open_store(tmp_path / "acts.zarr") as store:
        config = DissectConfig(bootstrap=0, controls=(), correlation=False)
        found = dissect(store, concepts, config)
        shown = dissect_pages(
            found, store, tmp_path / "site", concepts=concepts, images=picture,
            tables={SITE: published(found[SITE])}, limit=units * LIMIT,
        )  # fmt: skip
    with capsys.disabled():
        print(f"\n{shown}")
    nbytes = sum(p.stat().st_size for p in (tmp_path / "site").rglob("*") if p.is_file())
    assert shown.nbytes == nbytes <= units * LIMIT and shown.per_units <= 200e6
    assert shown.pictures > 2500 and shown.shown >= 8 and shown.side >= 64


def test_a_tighter_limit_makes_pictures_smaller_then_fewer(tmp_path):
    make(tmp_path / "acts.zarr", 40, 60, 20)
    with open_store(tmp_path / "acts.zarr") as store:
        found = dissect(store, Planted(60, 20), DissectConfig(bootstrap=0, controls=(), correlation=False))
        made = [
            dissect_pages(found, store, tmp_path / "site", images=picture, limit=limit)
            for limit in (2e6, 300e3, 200e3)
        ]
    for one in made:
        assert one.nbytes <= one.limit
    assert made[0].side == 192 and made[0].shown == 16 and made[1].side < 192
    assert (made[2].side, made[2].shown) < (made[1].side, made[1].shown)


def test_where_no_two_units_share_a_picture_it_still_fits():
    """The worst that can be: of 16 exemplars each is another picture."""
    units = 1000
    sample = np.arange(units * 16).reshape(units, 16)
    held = Exemplars(sample, np.zeros_like(sample), np.full(sample.shape, "", object))

    def used(shown):
        return units * (400 + 70 * shown)

    chosen = plan([held], lambda s: SIZE, picture, used, units * LIMIT)
    sheets = sheets_of([SIZE], chosen.sheets.side)
    each = len(sheets.encoded([picture(s) for s in chosen.samples[:320:20]])) / 16 + 230
    assert used(chosen.shown) + len(chosen.samples) * each <= units * LIMIT
    assert len(chosen.samples) == units * chosen.shown and chosen.shown >= 4


def test_pictures_come_in_the_order_of_units():
    sample = np.array([[5, 3], [3, 9], [-1, -1], [2, 5]])
    held = Exemplars(sample, sample, sample)
    assert distinct([held], 2) == [5, 3, 9, 2] and distinct([held], 1) == [5, 3, 2]
    assert distinct([], 2) == [] == distinct([held], 0)


def test_small_pictures_stay_as_they_are():
    assert sheets_of([(64, 64), (32, 48)], 48).lossless and sheets_of([(64, 40)], 48).side == 64
    large = sheets_of([(640, 480), (32, 48)], 128)
    assert not large.lossless and large.size((640, 480)) == (128, 96) and large.size((32, 48)) == (32, 48)
