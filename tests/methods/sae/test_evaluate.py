"""The whole evaluation on planted data, nulls trained by a stand-in."""

import json
from dataclasses import replace

import pytest
import torch

from mmxai.errors import ArgumentError, UnknownSiteError
from mmxai.methods.sae.evaluate import EvalConfig, evaluate
from mmxai.methods.sae.nulls import config_of, make_null
from tests.methods.sae.planted import SITE, orthonormal, sae_of, sparse_codes, store_of, world_store


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    directions = orthonormal(16)
    x = sparse_codes(400, 16, 3) @ directions
    with store_of(tmp_path_factory.mktemp("acts") / "s", x) as store:
        yield store, directions


def stand_in(trained):
    """A trainer that notes what it was asked for, and gives random directions."""

    def train(store, config):
        trained.append((store, config))
        return sae_of(orthonormal(16, seed=10 + len(trained)), k=3)

    return train


def test_nulls_are_beside_the_sae(planted, tmp_path):
    store, directions = planted
    trained: list = []
    config = EvalConfig(null_rows=4096)
    sae = sae_of(directions, k=3)
    found = evaluate(sae, store, config, train=stand_in(trained), folder=tmp_path / "nulls")
    assert found.metrics.fvu < 1e-9 and found.metrics.l0 == 3
    assert set(found.nulls) == {"pca", "frozen", "seed"} and "untrained" in found.missing
    assert found.nulls["pca"].metrics.fvu > 0.2  # the planted code has no large components
    assert found.nulls["pca"].metrics.l0 == 3
    assert [c.frozen for _, c in trained] == ["decoder", "none"]
    assert [c.seed for _, c in trained] == [0, 1] and all(c.rows == 4096 for _, c in trained)
    assert found.nulls["seed"].overlap.mean_max < 0.9
    text = repr(found)
    assert all(word in text for word in ("FVU", "pca", "against another seed", "missing: untrained"))
    assert found.to_pandas().loc["pca", "L0"] == 3
    saved = json.loads(found.save(tmp_path / "eval.json").read_text())
    assert saved["nulls"]["pca"]["metrics"]["l0"] == 3

    again = evaluate(sae, store, config, train=stand_in(trained), folder=tmp_path / "nulls")
    assert len(trained) == 2, "nulls are kept"
    assert again.figures() == found.figures()
    evaluate(sae_of(directions, k=4), store, config, train=stand_in(trained), folder=tmp_path / "nulls")
    assert len(trained) == 4, "those of another SAE are not"


def test_held_out_rows_only(planted):
    store, directions = planted
    found = evaluate(sae_of(directions, k=3), store, EvalConfig(nulls=(), split="test"))
    whole = evaluate(sae_of(directions, k=3), store, EvalConfig(nulls=(), split=None))
    few = evaluate(sae_of(directions, k=3), store, EvalConfig(nulls=(), split=None, rows=100))
    assert found.metrics.rows < 120 and whole.metrics.rows == 400 and few.metrics.rows == 100


def test_concepts_and_the_untrained_model(tmp_path):
    store, truth = world_store(tmp_path / "s", pictures=96)
    kinds = store[SITE].width
    untrained, _ = world_store(tmp_path / "u", pictures=96)

    def train(where, config):
        assert where is untrained and config.rows == 8192
        return sae_of(orthonormal(kinds), arch="relu")

    config = EvalConfig(split=None, samples=64, nulls=("untrained",), null_rows=8192)
    sae = sae_of(torch.eye(kinds), arch="relu")
    found = evaluate(sae, store, config, truth=truth, untrained=untrained, train=train)
    null = found.nulls["untrained"]
    assert found.concepts.means()["IoU"] == 1 and null.concepts.means()["IoU"] < 0.7
    assert "IoU" in repr(found) and not found.missing


def test_how_it_was_trained(planted):
    _, directions = planted
    sae = sae_of(directions, k=3)
    with pytest.raises(ArgumentError, match="null_rows"):
        config_of(sae)
    told = {"train": {"config": {"lr": 0.5, "latents": 16, "k": 3, "tokens": "patch"}, "rows": 5000}}
    sae.spec = replace(sae.spec, identity=told)
    config = config_of(sae)
    assert (config.lr, config.rows, config.tokens, config.sites) == (0.5, 5000, "patch", (SITE,))
    assert config_of(sae, 4096).rows == 4096


def test_bad_input(planted):
    store, directions = planted
    with pytest.raises(ArgumentError, match="nonsense"):
        EvalConfig(nulls=("nonsense",))
    with pytest.raises(ArgumentError, match="16 wide, expected 8"):
        evaluate(sae_of(orthonormal(8), k=3), store)
    with pytest.raises(UnknownSiteError, match="vision"):
        evaluate(sae_of(directions, k=3, site="vision.9.resid_post"), store)
    with pytest.raises(ArgumentError, match="expected some of"):
        make_null("nonsense", sae_of(directions, k=3), store, l0=3)
