"""The lens on a store against the lens on the running model; its archive; its memory."""

import numpy as np
import pytest
import torch
import zarr

import mmxai
from mmxai.bench.memory import growth
from mmxai.errors import ArgumentError
from mmxai.methods.lens import lens, lens_store, transfer, transfer_store
from mmxai.models import load_model
from mmxai.models.unembedding import Unembedding, load_unembedding, unembedding
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.memory import linux

TEXTS = ["Once upon a time there was a big dog", "The sun was hot", "Lily ran to the park with her mom"]
SITES = ["text.*.resid_post", "text.0.resid_pre", "text.2.z", "text.1.v", "text.*.mlp_out"]


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    from pathlib import Path

    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    home = tmp_path_factory.mktemp("stories")
    (home / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    model = load_model(str(folder))
    mmxai.harvest(
        model, str(home / "texts.txt"), sites=SITES, store=home / "acts.zarr", store_dtype="float32"
    )
    return model, home


def matched(found, order):
    """Indices of the rows of `found` that `order`'s are, by sample and position."""
    at = {(int(r[0]), int(r[1])): i for i, r in enumerate(found.rows)}
    return [at[int(r[0]), int(r[1])] for r in order.rows]


@pytest.mark.parametrize("batch", [5, 512])
def test_stored_is_live(stories, batch):
    model, home = stories
    live = lens(model, TEXTS, sites=SITES, targets="next")
    with open_store(home / "acts.zarr") as store:
        stored = lens_store(store, model, sites=SITES, targets="next", batch=batch)
    at = matched(live, stored)
    assert stored.states == live.states and sorted(at) == list(range(len(live.rows)))
    assert torch.equal(stored.ids, live.ids[:, at]) and torch.equal(stored.targets, live.targets[at])
    for name in ("logprobs", "entropy", "kl", "target_logprobs"):
        own, theirs = getattr(stored, name), getattr(live, name)[:, at]
        torch.testing.assert_close(own, theirs, rtol=0, atol=2e-5, equal_nan=True)
    assert torch.equal(stored.target_ranks, live.target_ranks[:, at])
    assert {stored.samples[i]["text"] for i in range(3)} == set(TEXTS)
    for mine, theirs in zip(stored.curves, live.curves, strict=True):
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mine.low, theirs.low, rtol=1e-5, atol=1e-5)


def test_an_unembedding_alone_reads_a_store(stories, tmp_path):
    model, home = stories
    end = load_unembedding(unembedding(model).save(tmp_path / "end"))
    with open_store(home / "acts.zarr") as store:
        own, theirs = lens_store(store, model, targets=[" the"]), lens_store(store, end, targets=[" the"])
        assert torch.equal(own.ids, theirs.ids) and own.target_names == theirs.target_names == [" the"]
        torch.testing.assert_close(own.target_logprobs, theirs.target_logprobs, rtol=0, atol=1e-5)
        with pytest.raises(ArgumentError, match="expected the model"):
            lens_store(store, end, sites=["text.2.z"])
        last = lens_store(store, end, tokens="last")
        assert len(last.rows) == 3 and (last.table.token_type == TOKEN_CODES["text"]).all()
        first = lens_store(store, end, samples=1)
        assert len(first.table.sample.unique()) == 1
        assert len(first.rows) == (own.table.sample == first.table.sample[0]).sum()


def test_layers_against_each_other(stories):
    model, home = stories
    found = lens(model, TEXTS)
    between = transfer(model, TEXTS)
    assert between.states == [found.states[i] for i in found.stream()]
    said = found.ids[found.stream(), :, 0].numpy()
    np.testing.assert_allclose(between.agreement, (said[:, None] == said[None]).mean(2))
    end = unembedding(model)
    run = model.run(TEXTS, capture=between.states)
    mask = run.rows["text"][..., 4] != TOKEN_CODES["pad"]
    logs = torch.stack([end.logits(run.acts[s][mask]).double().log_softmax(1) for s in between.states])
    apart = (logs.exp()[None] * (logs[None] - logs[:, None])).sum(3).mean(2)  # [l, m]: KL(m || l)
    np.testing.assert_allclose(between.kl, apart.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        between.kl[:, -1], found.curve("kl").mean[found.stream()], rtol=1e-4, atol=1e-5
    )
    first = np.bincount(found.first_final(), minlength=len(between.states) + 1)
    np.testing.assert_array_equal(between.first["all"], first)
    assert sum(between.first[k].sum() for k in ("text", "special")) == between.rows
    with open_store(home / "acts.zarr") as store:
        again = transfer_store(store, model, batch=7)
    np.testing.assert_allclose(again.kl, between.kl, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(again.agreement, between.agreement)
    assert "says the last's answer" in str(again) and len(again.to_pandas()) == len(between.states) ** 2


def test_everything_of_all_rows_on_disk(stories, tmp_path):
    model, home = stories
    with open_store(home / "acts.zarr") as store:
        whole = lens_store(store, model, targets="next", archive=tmp_path / "a.zarr", batch=6)
        few = lens_store(store, model, targets="next", archive=tmp_path / "b.zarr", batch=6, keep=3)
        # An archive of an earlier run is replaced, anything else is left alone.
        lens_store(store, model, archive=tmp_path / "b.zarr")
        (tmp_path / "other").mkdir()
        with pytest.raises(ArgumentError, match="is there already"):
            lens_store(store, model, archive=tmp_path / "other")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.attrs["states"] == whole.states and len(few.rows) == 3
    for name in ("rows", "ids", "logprobs", "entropy", "kl", "targets", "target_logprobs", "target_ranks"):
        np.testing.assert_array_equal(group[name][:], getattr(whole, name).numpy())
    assert "targets" not in zarr.open_group(tmp_path / "b.zarr", mode="r")


def test_without_the_last_block_there_is_no_divergence(stories):
    model, home = stories
    with open_store(home / "acts.zarr") as store:
        partial = store  # all sites are there; the end says which is the last
        end = unembedding(model)
        other = type(end)(**{**vars(end), "blocks": 99})
        found = lens_store(partial, other)
    assert found.kl is None and found.best is None and "KL and agreement need" in str(found)
    with pytest.raises(ArgumentError, match="no final state"):
        found.first_final()


STORIES = [
    "Once upon a time, there was a little boy named Tim. He liked to play with his red ball in the park.",
    "One day, Lily and her mom went to the store to buy some milk and bread.",
    "The dog was very happy. He ran and jumped and played with his friends all day.",
    "Tom saw a big tree. He wanted to climb it, but he was scared.",
    "The sun was hot and the sky was blue. The children sat under the tree and ate cake.",
    'Anna was sad because she lost her doll. Her dad said, "Do not worry, we will find it."',
    "There was a cat who lived in a small house. The cat liked to sleep on the bed.",
    "Ben and Mia went to the beach. They made a castle of sand and had a lot of fun.",
]


def test_the_next_token_comes_with_depth(stories):
    """On 273 tokens the last block's answer is the model's; with every block the share of next tokens that
    come first rises, and the divergence falls: by more than both intervals are wide from the third on."""
    model, _ = stories
    found = lens(model, STORIES, targets="next")
    own = model.run(STORIES).out.logits.argmax(-1)
    rows = found.table
    assert torch.equal(found.ids[-1, :, 0].long(), own[rows.sample.long(), rows.position.long()])
    stream = found.stream()
    for figure, sign in (("the next token comes first", 1), ("kl", -1)):
        curve = found.curve(figure, "text")
        mean, low, high = (sign * x[stream] for x in (curve.mean, curve.low, curve.high))
        low, high = np.minimum(low, high), np.maximum(low, high)
        assert curve.rows == 273 and (np.diff(mean) >= 0).all() and (low[3:] > high[2:-1]).all()
    share = found.curve("the next token comes first", "text").mean[stream]
    assert share[0] < 0.01 and share[-1] > 0.6


@linux
def test_memory_does_not_grow_with_rows_or_the_vocabulary(tmp_path):
    """Logits of 1.3 GB, of a store of 86 MB."""
    width, vocabulary, samples, length, blocks = 128, 20_000, 420, 100, 4
    sites = {f"text.{b}.resid_post": width for b in range(blocks)}
    rows = Rows.make(
        sample=torch.arange(samples).repeat_interleave(length),
        position=torch.arange(length).repeat(samples), token_type=TOKEN_CODES["text"], token_id=7,
    )  # fmt: skip
    path = tmp_path / "big.zarr"
    with create_store(path, {"text": sites}, dtype="float32", samples_per_part=210, durable=False) as writer:
        acts = {site: torch.randn(samples * length, width) for site in sites}
        writer.write([{"key": str(i)} for i in range(samples)], acts, {"text": rows})
    del acts, rows
    end = Unembedding("m", "text", width, torch.randn(vocabulary, width), str, blocks=blocks)
    with open_store(path) as store:
        lens_store(store, end, samples=2, keep=1)  # what a process takes once
        found, few = growth(lambda: lens_store(store, end, samples=4, keep=100, batch=128))
        found, many = growth(lambda: lens_store(store, end, samples=40, keep=100, batch=128))
    assert found.seen == 4000 and len(found.rows) == 100
    logits = found.seen * blocks * vocabulary * 4
    assert many < 64 << 20 < logits / 10 and many < few + (24 << 20)
