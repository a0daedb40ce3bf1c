"""Heads, latents and dimensions are units like neurons; matching finds what answers alike."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, RowSpaceError
from mmxai.methods.neurons import NeuronsConfig, RowLabels, neurons
from mmxai.methods.neurons.matching import match
from mmxai.methods.neurons.redundancy import redundancy
from mmxai.store import create_store, open_store
from mmxai.store.units import RowBlocks, Units
from mmxai.types import TOKEN_CODES, Rows

N, HEADS, WIDTH = 200, 3, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = torch.Generator().manual_seed(0)
    z = torch.randn(N * 4, WIDTH, generator=made)
    codes = torch.relu(torch.randn(N * 4, 16, generator=made) - 1.5)
    keep = codes.topk(3, 1)
    codes = torch.zeros_like(codes).scatter_(1, keep.indices, keep.values)
    rows = Rows.make(
        sample=torch.arange(N).repeat_interleave(4),
        position=torch.arange(4).repeat(N),
        token_type=torch.tensor([TOKEN_CODES["image"]] * 2 + [TOKEN_CODES["text"]] * 2).repeat(N),
    )
    z[(rows.token_type == TOKEN_CODES["text"]), :4] *= 3
    path = tmp_path_factory.mktemp("stores")
    for name, site, x, dtype in (
        ("z", "text.0.z", z, {}),
        ("c", "text.0.resid_post.sae", codes, {"dtype": "topk", "topk": 3}),
    ):
        with create_store(path / name, {"text": {site: x.shape[1]}}, durable=False, **dtype) as writer:
            writer.write([str(i) for i in range(N)], {site: x}, {"text": rows})
    with open_store(path / "z") as heads, open_store(path / "c") as latents:
        yield heads, latents, rows


def test_heads_are_the_norms_of_their_columns(store):
    heads, _, _ = store
    found = neurons(heads, "text.0.z", NeuronsConfig(heads=HEADS))
    z = heads["text.0.z"].gather(np.arange(4 * N), torch.float32).unflatten(1, (HEADS, 4)).norm(dim=2).numpy()
    assert found.kind == "head" and found.units == HEADS
    assert np.allclose(found.mean, z.mean(0), rtol=1e-5) and np.allclose(found.top_values[:, 0], z.max(0))
    # Head 0 is three times as large on text tokens: it prefers text, the others neither.
    assert found.modality[0] < -1 and np.abs(found.modality[1:]).max() < 0.2
    assert np.allclose(Units(heads, "text.0.z", HEADS).of(1, np.arange(9)), z[:9, 1])


def test_latents_are_read_where_they_are_stored(store):
    _, latents, _ = store
    site = "text.0.resid_post.sae"
    found, units = neurons(latents, site), Units(latents, site)
    x = latents[site].gather(np.arange(4 * N), torch.float32).numpy()
    assert found.kind == "latent" and np.allclose(found.density, (x > 0).mean(0))
    assert np.allclose(units.of(5, np.arange(4 * N)), x[:, 5])
    bands = found.strata
    assert bands.sampled == 4 * N
    for u in range(16):
        there = bands.rows[u] >= 0
        assert there.any() and (x[bands.rows[u][there], u] == bands.values[u][there]).all()
        assert bands.histogram[u][0] >= (x[:, u] == 0).sum() and bands.histogram[u].sum() == 4 * N
        assert np.allclose(bands.quantiles[u, [0, -1]], [0, x[:, u].max()])


def test_dimensions_of_the_stream_are_units_too(tmp_path):
    made = torch.Generator().manual_seed(2)
    x = torch.randn(300, 6, generator=made) + torch.tensor([0.0, 50, 0, 0, 0, 0])
    rows = Rows.make(sample=torch.arange(300))
    with create_store(tmp_path / "s", {"vision": {"vision.1.resid_post": 6}}, durable=False) as writer:
        writer.write([str(i) for i in range(300)], {"vision.1.resid_post": x}, {"vision": rows})
    with open_store(tmp_path / "s") as store:
        sign = (store["vision.1.resid_post"][:, 2] > 0).numpy()
        labels = RowLabels(("up",), lambda who: (np.ones(len(who), bool), sign[who.sample.numpy()][:, None]))
        found = neurons(store, "vision.1.resid_post", labels=labels)
    assert found.kind == "dimension" and found.labels.ranking("up")[0] == 2 and found.labels.auc[2, 0] == 1
    assert found.density[1] == 1 and abs(found.mean[1] - 50) < 0.5


def test_no_block_cuts_a_sample(store):
    heads, _, _ = store
    parts = list(RowBlocks(heads, "text")(7))
    assert (np.concatenate([r for r, _ in parts]) == np.arange(4 * N)).all() and len(parts) > 50
    seen = [set(who.sample.tolist()) for _, who in parts]
    assert sum(map(len, seen)) == N


def test_matching_finds_a_permutation(tmp_path, monkeypatch):
    made = torch.Generator().manual_seed(1)
    x, order = torch.randn(600, 20, generator=made), torch.randperm(20, generator=made)
    y = x[:, order] * -1.5 + 0.3 * torch.randn(600, 20, generator=made)
    rows = Rows.make(sample=torch.arange(300).repeat_interleave(2), position=torch.arange(2).repeat(300))
    pooled = Rows.make(sample=torch.arange(300))
    for name, sites, space in (("a", {"u": x}, rows), ("b", {"u": y}, rows)):
        with create_store(tmp_path / name, {"t": {"u": 20}}, durable=False) as writer:
            writer.write([str(i) for i in range(300)], sites, {"t": space})
    mean = y.unflatten(0, (300, 2)).mean(1)
    with create_store(tmp_path / "p", {"p": {"u": 20}}, durable=False, dtype="float32") as writer:
        writer.write([str(i) for i in range(300)], {"u": mean}, {"p": pooled})
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b, open_store(tmp_path / "p") as p:
        one, two, three = (Units(s, "u") for s in (a, b, p))
        found = match(one, two)
        index, r = found.best()
        assert (order.numpy()[index] == np.arange(20)).all() and r.max() < -0.9 and len(found.mutual()) == 20
        full = np.corrcoef(a["u"][:].float().numpy().T, b["u"][:].float().numpy().T)[:20, 20:]
        order_of = np.argsort(-np.abs(full), 1)[:, :8]
        assert (found.nearest == order_of).all() and found.null_a.max() < 0.3
        assert np.allclose(found.correlation, np.take_along_axis(full, order_of, 1), atol=1e-5)
        assert (found.back == np.abs(full).argmax(0)).all()
        monkeypatch.setattr("mmxai.methods.neurons.matching.PAIR_BYTES", 200)
        some = match(one, two, memory=57_600, near=3)  # 7 units at a time, 60 of the samples
        assert some.count == 120 and some.nearest.shape == (20, 3) and (some.best()[0] == index).all()
        assert (some.back == found.back).all() and len(some.mutual()) == 20
        with pytest.raises(ArgumentError, match="room for two samples"):
            match(one, two, memory=600)
        across = match(one, three, by="mean")
        assert across.count == 300 and (order.numpy()[across.best()[0]] == np.arange(20)).all()
        assert "20 mutual" in str(across) and len(across.to_pandas()) == 20
        with pytest.raises(RowSpaceError, match="by='mean'"):
            match(one, three)


def test_latents_are_correlated_by_their_entries(store, tmp_path, monkeypatch):
    """As numpy has it of dense rows; no row is decoded."""
    _, latents, rows = store
    x = latents["text.0.resid_post.sae"].gather(np.arange(4 * N), torch.float32)
    made = torch.Generator().manual_seed(5)
    order = torch.randperm(16, generator=made)
    with create_store(tmp_path / "b", {"text": {"c.sae": 17}}, durable=False, dtype="topk", topk=3) as writer:
        other = torch.cat([2 * x[:, order], torch.zeros(len(x), 1)], 1)  # the last is never active
        writer.write([str(i) for i in range(N)], {"c.sae": other}, {"text": rows})
    a = Units(latents, "text.0.resid_post.sae")
    full = np.corrcoef(x.numpy().T)
    with open_store(tmp_path / "b") as store_b:
        b = Units(store_b, "c.sae")
        monkeypatch.setattr(Units, "values", None)
        twins = redundancy(a, np.arange(4 * N), rows=10**6, level=0.9, near=15, memory=32 * 16 * 5)
        found = match(a, b, near=17)
        few = match(a, b, tokens="image", split="test")
    assert twins.rows == 4 * N and np.allclose(
        np.take_along_axis(full, twins.nearest, 1), twins.correlation, atol=1e-5
    )
    off = np.abs(full - np.eye(16))
    assert np.allclose(np.sort(off, 1)[:, ::-1][:, :15], np.abs(twins.correlation), atol=1e-5)
    assert (order.numpy()[found.best()[0]] == np.arange(16)).all() and found.best()[1].min() > 0.9999
    assert (found.correlation[found.nearest == 16] == 0).all() and 0 < few.count < N
    shifted = np.roll(x.numpy(), -2 * N, 0)  # x's rows with those of b half the samples on
    null = np.abs(np.corrcoef(shifted.T, x.numpy().T)[:16, 16:])
    assert np.allclose(found.null_a, null.max(1), atol=1e-5)


def test_matching_wants_samples_to_tell_by(tmp_path):
    with create_store(tmp_path / "one", {"u": 4}, durable=False) as writer:
        writer.write(["0"], {"u": torch.randn(1, 4)})
    with open_store(tmp_path / "one") as store, pytest.raises(RowSpaceError, match="got 1 samples"):
        match(Units(store, "u"), Units(store, "u"))
