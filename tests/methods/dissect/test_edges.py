"""What is at the edges of a dissection: padding, constants, rare units, sides without pictures."""

import numpy as np
import pytest
import torch

from mmxai.errors import SelectionError
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect.ceiling import Ceiling
from mmxai.store import create_store, open_store
from mmxai.types import Rows
from tests.methods.dissect.stores import SITE, Maps, make

PLAIN = dict(sites=(SITE,), controls=(), bootstrap=0, auprc=False, exact=True, quantile=0.1)


def padded(path, dtype="float32", sites=(SITE,), **options):
    """Pictures of 16 x 8 pixels in the upper half of a grid of 4 x 4; units are highest in the padding, where
    no pixel is. Returns values `[pictures, 4, 4, units]`."""
    x = torch.rand(6, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2:] += 1
    cell = torch.arange(16).repeat(6)
    rows = Rows.make(
        sample=torch.arange(6).repeat_interleave(16), position=cell, image=0, y=cell // 4, x=cell % 4
    )
    tile = {"affine": [4 / 16, 0, 0, 0, 2 / 8, 0], "grid": [4, 4]}
    stored = [{"key": f"p{i}", "size": [16, 8], "tiles": [tile]} for i in range(6)]
    with create_store(path, dict.fromkeys(sites, 3), dtype=dtype, durable=False, **options) as writer:
        writer.write(stored, dict.fromkeys(sites, x.reshape(-1, 3)), rows)
    return x


@pytest.mark.parametrize("options", [{}, dict(dtype="topk", topk=3)])
def test_what_padding_shows_is_in_no_top(tmp_path, options):
    x = padded(tmp_path / "a", **options)
    with open_store(tmp_path / "a") as store:
        one = dissect(store, Maps(6), DissectConfig(**PLAIN, top=2, rule="absolute", absolute=0.5))[SITE]
        assert (store[SITE].rows.gather(one.top_rows.ravel()).y < 2).all()
    known = [i for i in range(6) if i not in Maps.unknown]
    best = x[known][:, :2].amax((1, 2)).sort(0, descending=True).values[:2].T
    assert np.allclose(one.top_values, best, atol=0 if not options else 1e-2)


def test_a_constant_correlates_with_nothing(tmp_path, monkeypatch):
    """0.1 is no float32: squares are all rounded the same way, which leaves more than 0 of a variance."""
    drawn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: _offset(drawn(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "to", _unrounded(torch.Tensor.to))
    make(tmp_path / "a")
    monkeypatch.undo()
    with open_store(tmp_path / "a") as store:
        counts = dissect(store, Maps(12), DissectConfig(**PLAIN))[SITE].scored
    assert np.isnan(counts.correlation()[5]).all()
    assert np.isfinite(counts.correlation()[6, :3]).all()  # noise beside a hundred times its size
    assert np.isnan(counts.correlation()[7]).all()  # of what is left beside 1e5 float32 tells nothing


def _offset(x):
    x[..., 5], x[..., 6], x[..., 7] = 0.1, x[..., 6] + 100, x[..., 7] + 1e5
    return x


def _unrounded(to):
    return lambda x, *a, **k: x if a and a[0] is torch.bfloat16 else to(x, *a, **k)


def test_controls_have_no_rare_detectors_either(tmp_path):
    make(tmp_path / "a")
    with open_store(tmp_path / "a") as store:
        config = DissectConfig(**(PLAIN | dict(controls=("rotated", "shuffled"), min_fired=10_000)))
        one = dissect(store, Maps(12), config, untrained=store)[SITE]
    assert not one.detectors(0).any() and len(one.controls) == 3
    for control in one.controls.values():
        assert (control.iou > 0).any() and control.detectors(0) == 0 and control.unique(0) == 0


@pytest.mark.parametrize("held_out, unknown, said", [
    (0.3, "scored", "held out"), (0.3, "chosen", "chosen on"), (0, "all", "of the store"),
])  # fmt: skip
def test_a_side_of_which_nothing_is_known(tmp_path, held_out, unknown, said):
    from mmxai.store.select import split_of

    make(tmp_path / "a")
    apart = split_of(np.arange(12), (0.7, 0.3, 0)) == 1
    maps = Maps(12)
    away = {"scored": apart, "chosen": ~apart, "all": np.ones(12, bool)}[unknown]
    maps.unknown = tuple(np.flatnonzero(away).tolist())
    with open_store(tmp_path / "a") as store, pytest.raises(SelectionError, match=said):
        dissect(store, maps, DissectConfig(**PLAIN, held_out=held_out))


def test_a_site_whose_rows_are_no_cells_says_so_whatever_the_rule(tmp_path):
    rows = Rows.make(sample=torch.arange(8), position=0)
    stored = [{"key": f"p{i}", "size": [8, 8], "tiles": []} for i in range(8)]
    with create_store(tmp_path / "a", {"vision.embeds": 3}, durable=False) as writer:
        writer.write(stored, {"vision.embeds": torch.randn(8, 3)}, rows)
    with open_store(tmp_path / "a") as store, pytest.raises(SelectionError, match="no cell"):
        dissect(store, Maps(8), DissectConfig(**(PLAIN | dict(sites="vision.embeds", rule="positive"))))


def test_ceilings_are_found_once_for_all_units(tmp_path, monkeypatch):
    """Whatever the sites: those of LVIS's concepts take 20 MB each."""
    sites = (SITE, "vision.2.mlp_post", "vision.3.mlp_post")
    padded(tmp_path / "a", sites=sites)
    made = []
    monkeypatch.setattr(Ceiling, "__init__", _counted(Ceiling.__init__, made))
    with open_store(tmp_path / "a") as store:
        config = DissectConfig(**(PLAIN | dict(sites=sites)))
        found = dissect(store, Maps(6), config, state=tmp_path / "state")
        assert len(made) == 1 and found[SITE].ceiling.any()
        again = dissect(store, Maps(6), config, state=tmp_path / "state")
    for name in sites:
        assert np.array_equal(found[name].ceiling, found[SITE].ceiling)
        assert np.array_equal(again[name].ceiling, found[SITE].ceiling)


@pytest.mark.parametrize("options", [{}, dict(held_out=0.3), dict(high_norm=3.0)])
def test_rows_are_drawn_once_for_all_sites(tmp_path, monkeypatch, options):
    from mmxai.methods.dissect import thresholds

    sites = (SITE, "vision.2.mlp_post")
    padded(tmp_path / "a", sites=sites)
    made = []
    monkeypatch.setattr(thresholds, "_draw", _drawn(thresholds._draw, made))
    config = DissectConfig(
        **(PLAIN | options | dict(sites=sites, exact=False, controls=("rotated",), auprc=True)),
        norm_site=SITE if "high_norm" in options else None,
    )
    with open_store(tmp_path / "a") as store:
        dissect(store, Maps(6), config)
    assert len(made) == (3 if "high_norm" in options else 1)  # to find norms, and of what each site keeps


def _drawn(draw, made):
    def drawn(*args):
        made.append(args)
        return draw(*args)

    return drawn


def _counted(init, made):
    def counted(self, concepts):
        made.append(concepts)
        init(self, concepts)

    return counted
