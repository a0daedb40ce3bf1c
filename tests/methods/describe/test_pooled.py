"""One value a picture and unit, against the values as they were written."""

import numpy as np
import pytest
import torch

from mmxai.errors import NonFiniteError, UnknownSiteError
from mmxai.methods.describe import pooled
from mmxai.methods.describe.pooled import Pooled, sites_of
from mmxai.store import create_store, open_store
from tests.methods.describe.stores import SITE, make


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("pooled") / "acts.zarr"
    held = make(path, torch.randn(150, 12))
    with open_store(path) as store:
        yield store, held


EXPECTED = {
    "auto": ("auto", None, lambda x: x[:, 0]),
    "cls": ("cls", None, lambda x: x[:, 0]),
    "last": ("last", None, lambda x: x[:, -1]),
    "mean": ("mean", None, lambda x: x[:, 1:].mean(1)),
    "max": ("max", None, lambda x: x[:, 1:].amax(1)),
    "auto of patches": ("auto", "patch", lambda x: x[:, 1:].mean(1)),
    "max of all": ("max", "cls,patch", lambda x: x.amax(1)),
}


@pytest.mark.parametrize("step", [1 << 21, 130])
@pytest.mark.parametrize("pool, tokens, expected", EXPECTED.values(), ids=EXPECTED)
def test_values(known, monkeypatch, step, pool, tokens, expected):
    store, held = known
    monkeypatch.setattr(pooled, "BLOCK_VALUES", step)
    made = Pooled(store, SITE, pool, tokens)
    x = expected(held)[torch.from_numpy(made.samples())]
    torch.testing.assert_close(made.read(), x)
    torch.testing.assert_close(made.read(3, 8), x[:, 3:8])


@pytest.mark.parametrize("pool", ["mean", "max", "cls"])
def test_what_a_topk_site_does_not_hold_is_0(tmp_path, pool):
    x = torch.randn(90, 12).abs() - 0.4
    held = make(tmp_path / "a", x, site="vision.1.sae", dtype="topk", topk=5)
    with open_store(tmp_path / "a") as store:
        rows = store["vision.1.sae"].gather(np.arange(90 * 5), torch.float32)
        made = Pooled(store, "vision.1.sae", pool)
        dense = rows.view(90, 5, 12)
        assert (dense == 0).any(2).all() and (dense[:, 1:].amax(1) == 0).any() and (dense < 0).any()
        own = {"mean": dense[:, 1:].mean(1), "max": dense[:, 1:].amax(1), "cls": dense[:, 0]}[pool]
        torch.testing.assert_close(made.read(), own)
        torch.testing.assert_close(made.read(4, 9), own[:, 4:9])
        assert made.units.kind == "latent" and len(held) == 90


def test_heads_are_norms(tmp_path):
    held = make(tmp_path / "a", torch.randn(30, 12), site="vision.0.z")
    with open_store(tmp_path / "a") as store:
        made = Pooled(store, "vision.0.z", "cls", heads=3)
        torch.testing.assert_close(made.read(), held[:, 0].view(30, 3, 4).norm(dim=2))


def test_nan_is_named(tmp_path):
    x = torch.randn(30, 4)
    x[17, 2] = torch.nan
    make(tmp_path / "a", x)
    with open_store(tmp_path / "a") as store, pytest.raises(NonFiniteError, match="in sample 17"):
        Pooled(store, SITE).read()


def test_globs_leave_out_texts(tmp_path):
    sites = {
        "vision": {SITE: 4}, "vision.pooled": {"vision.embeds": 3}, "text.pooled": {"text.embeds": 3},
    }  # fmt: skip
    with create_store(tmp_path / "a", sites, dtype="float32", durable=False) as writer:
        acts = {
            SITE: torch.randn(2, 1, 4),
            "vision.embeds": torch.randn(2, 3),
            "text.embeds": torch.randn(2, 3),
        }
        writer.write(["a", "b"], acts)
    with open_store(tmp_path / "a") as store:
        assert sites_of(store, ["*"]) == [SITE, "vision.embeds"]
        assert sites_of(store, ["*", "text.embeds"]) == [SITE, "vision.embeds", "text.embeds"]
        with pytest.raises(UnknownSiteError, match="nowhere"):
            sites_of(store, ["nowhere"])
