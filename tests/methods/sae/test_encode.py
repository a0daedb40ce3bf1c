"""A store of codes against the SAE's own codes of every row."""

from dataclasses import replace

import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, NonFiniteError, PlanMismatchError, SelectionError
from mmxai.methods.sae.encode import encode_store
from mmxai.store.verify import verify
from tests.methods.sae.planted import SITE, orthonormal, sae_of, sparse_codes, store_of

NAME = f"{SITE}.sae"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    directions, codes = orthonormal(16), sparse_codes(96, 16, 3)
    with store_of(tmp_path_factory.mktemp("acts") / "s", codes @ directions) as store:
        yield store, directions, codes


def test_codes_rows_samples_and_exemplars(planted, tmp_path):
    store, directions, codes = planted
    report = encode_store(sae_of(directions, k=3), store, tmp_path / "z", progress=False)
    assert (report.rows, report.parts, report.total) == (96, 3, None) and report.cut == 0
    assert verify(tmp_path / "z").ok
    with mmxai.open_store(tmp_path / "z") as made:
        site = made[NAME]
        assert site.shape == (96, 16) and site.storage == "top 3" and site.space == "vision"
        torch.testing.assert_close(site[:].float(), codes, rtol=2**-8, atol=1e-6)
        assert torch.equal(made.rows["vision"].read().table, store.rows["vision"].read().table)
        assert list(made.samples) == list(store.samples)
        stats = made.stats[NAME]
        assert stats.positive.sum() == pytest.approx(3)
        for latent in range(16):
            samples = stats.topk_rows[latent] // 4
            assert len(samples.unique()) == len(samples)  # one row a sample
            most = codes[:, latent].view(24, 4).amax(1)
            torch.testing.assert_close(stats.topk_values[latent], most.topk(16).values, rtol=2**-8, atol=1e-6)
        assert made.plan.notes["sae"]["latents"] == 16


def test_blocks_make_the_same_store(planted, tmp_path, monkeypatch):
    """Blocks that end inside a sample: the same rows, and still one exemplar a sample."""
    store, directions, _ = planted
    sae = sae_of(directions, k=3)
    encode_store(sae, store, tmp_path / "whole")
    monkeypatch.setattr("mmxai.methods.sae.encode.BLOCK_BYTES", 3 * 4 * 16)
    encode_store(sae, store, tmp_path / "blocks")
    with mmxai.open_store(tmp_path / "whole") as one, mmxai.open_store(tmp_path / "blocks") as two:
        assert torch.equal(one[NAME][:], two[NAME][:])
        stats = one.stats[NAME], two.stats[NAME]
        assert torch.equal(stats[0].topk_rows, stats[1].topk_rows)
        assert torch.equal(stats[0].topk_values, stats[1].topk_values)
        torch.testing.assert_close(stats[0].mean, stats[1].mean)


def test_made_anew_it_is_the_same(planted, tmp_path):
    store, directions, _ = planted
    sae, out = sae_of(directions, k=3), tmp_path / "z"
    encode_store(sae, store, out)
    data = sorted(p for p in out.rglob("*") if p.is_file() and "commits" not in p.parts)
    before = {p: p.read_bytes() for p in data}
    (out / "mmxai/commits/1.json").unlink()
    again = encode_store(sae, store, out)
    assert again.parts == 1 and again.before == 2
    assert {p: p.read_bytes() for p in data} == before
    assert encode_store(sae, store, out, part_of="1/2").parts == 0
    other = sae_of(directions.flip(0), k=3)
    with pytest.raises(PlanMismatchError, match=r"sae\.weights"):
        encode_store(other, store, out)


def test_k_of_an_sae_without_one(planted, tmp_path):
    store, directions, codes = planted
    sae = sae_of(directions, arch="jumprelu")
    sae.threshold.fill_(0.25)
    assert encode_store(sae, store, tmp_path / "a").k == 8
    report = encode_store(sae, store, tmp_path / "b", k=2)
    assert report.cut == 96 and "96 rows had more than 2" in str(report)
    lost = codes.sort(1).values[:, -3].sum() / codes.sum()  # the smallest of three
    assert report.dropped / report.activation == pytest.approx(float(lost), rel=1e-4)
    with mmxai.open_store(tmp_path / "b") as made:
        kept = codes >= codes.topk(2).values[:, 1:]
        torch.testing.assert_close(made[NAME][:].float(), codes * kept, rtol=2**-8, atol=1e-6)


def test_bad_input(planted, tmp_path):
    store, directions, codes = planted
    x = codes @ directions
    x[41, 3] = torch.inf
    with store_of(tmp_path / "s", x) as bad, pytest.raises(NonFiniteError, match=r"row 41 \(part 1\)"):
        encode_store(sae_of(directions, k=3), bad, tmp_path / "z")
    with pytest.raises(ArgumentError, match="16 wide, expected 8"):
        encode_store(sae_of(orthonormal(8), k=3), store, tmp_path / "y")
    with pytest.raises(ArgumentError, match="2/2"):
        encode_store(sae_of(directions, k=3), store, tmp_path / "x", part_of="2/2")


def test_only_the_tokens_it_was_trained_on(planted, tmp_path):
    store, directions, _ = planted
    sae = sae_of(directions, k=3)
    sae.spec = replace(sae.spec, identity={"train": {"config": {"tokens": "cls"}}})
    with pytest.raises(SelectionError, match="no row is left"):  # the store has patches alone
        encode_store(sae, store, tmp_path / "z")
    assert not (tmp_path / "z").exists()
    assert encode_store(sae, store, tmp_path / "y", tokens="patch").rows == 96


def test_more_exemplars(planted, tmp_path):
    store, directions, codes = planted
    encode_store(sae_of(directions, k=3), store, tmp_path / "z", exemplars=20)
    with mmxai.open_store(tmp_path / "z") as made:
        values = made.stats[NAME].topk_values
        most = codes.view(24, 4, 16).amax(1).T.topk(20).values
        torch.testing.assert_close(values, most, rtol=2**-8, atol=1e-6)
    with pytest.raises(PlanMismatchError, match=r"statistics\.k"):
        encode_store(sae_of(directions, k=3), store, tmp_path / "z")
    for wrong in ({"exemplars": 0}, {"exemplars": 999}, {"k": 0}):
        with pytest.raises(ArgumentError, match="expected k >= 1"):
            encode_store(sae_of(directions, k=3), store, tmp_path / "y", **wrong)
