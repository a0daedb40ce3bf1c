"""The whole evaluation on planted data, nulls trained by a stand-in."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, CheckpointError, RowSpaceError, UnknownSiteError
from mmxai.labels import Truth
from mmxai.methods.sae import checkpoint, rows, seen
from mmxai.methods.sae import evaluate as evaluation
from mmxai.methods.sae.evaluate import EvalConfig, Live, evaluate
from mmxai.methods.sae.model import SAE, load_sae
from mmxai.methods.sae.nulls import config_of, make_null
from mmxai.methods.sae.rows import spliced_tokens
from mmxai.methods.sae.spec import SAESpec
from mmxai.store.select import split_of
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
    assert saved["nulls"]["pca"]["metrics"]["l0"] == saved["nulls"]["pca"]["figures"]["L0"] == 3
    assert set(saved["figures"]) == set(found.figures())

    again = evaluate(sae, store, config, train=stand_in(trained), folder=tmp_path / "nulls")
    assert len(trained) == 2, "nulls are kept"
    assert again.figures() == found.figures()
    evaluate(sae_of(directions, k=4), store, config, train=stand_in(trained), folder=tmp_path / "nulls")
    assert len(trained) == 4, "those of another SAE are not"


def test_nulls_are_kept_for_what_they_are_of(planted, tmp_path):
    store, directions = planted
    trained: list = []
    sae = sae_of(directions, arch="relu")
    options = {"rows": 4096, "train": stand_in(trained), "folder": tmp_path}
    first = make_null("seed", sae, store, l0=3.2, **options)
    # L0 moves with the rows measured; what was trained does not.
    again = make_null("seed", sae, store, l0=4.9, **options)
    assert len(trained) == 1 and torch.equal(again.W_dec, first.W_dec)
    assert make_null("pca", sae, store, l0=3.2, **options).spec.k == 3
    assert make_null("pca", sae, store, l0=4.9, **options).spec.k == 5

    other = sae_of(directions.flip(0), arch="relu")
    saved = SAE.save

    def killed(self, folder):
        saved(self, folder)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAE, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            make_null("seed", other, store, l0=3, **options)
    last = make_null("seed", sae, store, l0=3, **options)
    assert len(trained) == 3, "the weights of the other's null do not pass for this one's"
    assert torch.equal(load_sae(tmp_path / "seed").W_dec, last.W_dec)


def test_an_sae_that_does_not_say_how_it_was_trained(planted):
    store, directions = planted
    found = evaluate(sae_of(directions, k=3), store)
    assert set(found.nulls) == {"pca"} and "null_rows" in found.missing["frozen"]
    assert "missing: seed" in repr(found)


def test_what_cannot_be_trained_is_said_first(planted):
    store, directions = planted
    said: list = []
    with pytest.raises(ArgumentError, match="expected at least a batch"):
        evaluate(sae_of(directions, k=3), store, EvalConfig(null_rows=100), say=said.append)
    assert not said


def test_pooled_rows_are_not_spliced(tmp_path):
    directions = orthonormal(16)
    with store_of(tmp_path / "s", sparse_codes(400, 16, 3) @ directions) as store:
        store.plan.identity["selection"] = {"tokens": ["patch"], "pool": "mean"}
        sae = sae_of(directions, k=3)
        assert spliced_tokens(sae.spec, store) == "patch"
        live = Live(None, iter(()), {})
        found = evaluate(sae, store, EvalConfig(nulls=()), live=live)
        assert "pooled" in found.missing["recovered"] and not found.recovered


def test_sites_of_two_row_spaces(tmp_path):
    with mmxai.create_store(
        tmp_path / "s", {"a": 4, "b": 4}, dtype="float32", space={"a": "one", "b": "two"}
    ) as writer:
        writer.write(["s0"], {"a": torch.ones(1, 4), "b": torch.ones(1, 4)})
    spec = SAESpec("topk", 4, ("a",), (4,), ("b",), (4,), k=1)
    with mmxai.open_store(tmp_path / "s") as store, pytest.raises(RowSpaceError, match="two"):
        evaluate(SAE.zeros(spec), store)


def seen_samples(monkeypatch, module):
    """The samples of whatever rows `module` takes from batches."""
    found: set[int] = set()
    take = module.inputs_and_targets

    def noting(spec, batch):
        found.update(batch.rows.sample.tolist())
        return take(spec, batch)

    monkeypatch.setattr(module, "inputs_and_targets", noting)
    return found


def test_held_out_samples_only(planted, monkeypatch):
    store, directions = planted
    sae = sae_of(directions, k=3)
    concepts = Truth.of_table(["even"], np.arange(100)[:, None] % 2 == 0)
    train, val, test = (
        {int(s) for s in np.flatnonzero(split_of(np.arange(100), (0.8, 0.1, 0.1)) == i)} for i in range(3)
    )
    assert min(len(train), len(val), len(test)) > 0 and len(train | val | test) == 100
    measured = seen_samples(monkeypatch, evaluation)
    scored = seen_samples(monkeypatch, seen)
    learnt = seen_samples(monkeypatch, rows)
    monkeypatch.setattr(seen, "FEWEST_SAMPLES", 2)
    found = evaluate(sae, store, EvalConfig(nulls=("pca",)), truth=concepts)
    assert measured == test and scored == test and learnt == train
    assert found.metrics.rows == 4 * len(test) == found.nulls["pca"].metrics.rows
    assert found.concepts.samples == len(test)
    whole = evaluate(sae, store, EvalConfig(nulls=(), split=None))
    few = evaluate(sae, store, EvalConfig(nulls=(), split=None, rows=100))
    assert whole.metrics.rows == 400 and few.metrics.rows == 100


def test_too_few_samples_for_concepts_lose_nothing_else(tmp_path):
    directions = orthonormal(16)
    with store_of(tmp_path / "s", sparse_codes(60, 16, 3) @ directions) as store:
        said: list = []
        concepts = Truth.of_table(["even"], np.arange(15)[:, None] % 2 == 0)
        found = evaluate(
            sae_of(directions, k=3), store, EvalConfig(split=None, nulls=("pca",)), truth=concepts,
            say=said.append,
        )  # fmt: skip
    assert "got 15 samples" in found.missing["concepts"] and "concepts" not in said
    assert found.metrics.rows == 60 and found.nulls["pca"].metrics.rows == 60 and found.concepts is None


def test_two_evaluations_do_not_make_the_same_null(planted, tmp_path):
    store, directions = planted
    trained: list = []
    options = {"l0": 3, "rows": 4096, "train": stand_in(trained), "folder": tmp_path}
    sae = sae_of(directions, k=3)
    with checkpoint.held(tmp_path / "seed/sae.safetensors"):
        with pytest.raises(CheckpointError, match="another process"):
            make_null("seed", sae, store, **options)
        assert not trained
        make_null("frozen", sae, store, **options)
    first = make_null("seed", sae, store, **options)
    with checkpoint.held(tmp_path / "seed/sae.safetensors"):  # what is kept is read all the same
        assert torch.equal(make_null("seed", sae, store, **options).W_dec, first.W_dec)
    assert len(trained) == 2


def test_a_torn_recipe_is_none(planted, tmp_path):
    store, directions = planted
    trained: list = []
    options = {"l0": 3, "rows": 4096, "train": stand_in(trained), "folder": tmp_path}
    make_null("seed", sae_of(directions, k=3), store, **options)
    recipe = tmp_path / "seed/recipe.json"
    good = recipe.read_text()
    for torn in ("", good[:20]):
        recipe.write_text(torn)
        make_null("seed", sae_of(directions, k=3), store, **options)
        assert recipe.read_text() == good
    assert len(trained) == 3


def test_concepts_and_the_untrained_model(tmp_path, monkeypatch):
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
    assert found.concepts.samples == null.concepts.samples == 64

    # Where the active latents leave room for fewer, the untrained model's are no others: 65 rows a picture.
    room = 65 * 40 * (found.metrics.l0 + null.metrics.l0)
    monkeypatch.setattr(evaluation, "ENTRIES", int(room) + 1)
    again = evaluate(sae, store, config, truth=truth, untrained=untrained, train=train)
    assert again.concepts.samples == again.nulls["untrained"].concepts.samples == 40


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
    joint = SAESpec("topk", 8, ("a", "b"), (4, 4), ("c",), (4,), k=2, identity=told)
    config = config_of(SAE.zeros(joint), 4096)
    assert config.crosscoder and (config.sites, config.sites_out) == (("a", "b"), ("c",))
    sae.spec = replace(sae.spec, identity={"train": {"config": {"split": None}, "rows": 5000}})
    assert "all samples" in evaluate(sae, planted[0], EvalConfig(nulls=())).missing["held-out samples"]


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
