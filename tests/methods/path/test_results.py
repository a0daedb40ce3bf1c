"""Contributions summed over rows, against the split of all rows at once; what they print and keep."""

import json

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.path import contributions

from .test_path import made


@pytest.fixture(scope="module")
def split():
    path, tensors = made("clip", "vision")
    batch = path.read(tensors)
    torch.manual_seed(0)
    texts = torch.randn(2, path.out)
    return path, batch, texts


def parts(batch):
    for rows in (slice(0, 1), slice(1, 3)):
        yield type(batch)({s: x[rows] for s, x in batch.items()}, batch.rows[rows], space=batch.space)


def test_sums_over_batches_are_those_of_all_rows(split):
    path, batch, texts = split
    found = contributions(path, parts(batch), path.towards(texts), ["a", "b"])
    every = path.split(batch, path.towards(texts)).double().numpy()
    np.testing.assert_allclose(found.mean, every.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.std, every.std(0), rtol=1e-3, atol=1e-5)
    output = batch["output"].double()
    whole = path.split(batch, path.everything()).double()
    share = torch.einsum("nto,no->nt", whole, output / output.square().sum(1, keepdim=True)).mean(0)
    np.testing.assert_allclose(found.share, share.numpy(), rtol=1e-4, atol=1e-6)
    assert found.share.sum() == pytest.approx(1, abs=1e-5)
    assert sum(found.by_kind().values()) == pytest.approx(1, abs=1e-5)
    assert found.rows == found.compared == 3 and found.error < 1e-5
    norms = [i for i, t in enumerate(path.terms) if t.kind == "norm"]
    assert found.norm_share == pytest.approx(float(share[norms].sum()), abs=1e-6) and found.norm_share != 0


def test_neurons_sum_to_their_mlp_and_the_largest_come_first(split):
    path, batch, texts = split
    found = contributions(path, parts(batch), path.towards(texts), ["a", "b"])
    own = torch.einsum("nkw->kw", path.neurons(batch, 1, path.towards(texts))) / 3
    np.testing.assert_allclose(found.neuron_mean["vision.1.mlp_post"].T, own, rtol=1e-4, atol=1e-6)
    for i, term in enumerate(path.terms):
        if term.kind == "mlp":
            np.testing.assert_allclose(
                found.neuron_mean[term.name].sum(0), found.mean[i], rtol=1e-3, atol=1e-5
            )
            assert found.neuron_share[term.name].sum() == pytest.approx(found.share[i], abs=1e-5)
    frame = found.neurons()
    assert list(frame.columns) == ["site", "neuron", "share", "a", "b"]
    top = found.top_neurons(3, 1)
    order = frame["b"].abs().sort_values(ascending=False).index[:3]
    assert [(s, u) for s, u, _ in top] == [(frame.site[i], frame.neuron[i]) for i in order]


def test_each_row_may_have_its_own_targets():
    path, tensors = made("gpt2", "text")
    batch = path.read(tensors)
    found = contributions(path, parts(batch), path.foremost, ["next"])
    logits = batch["output"].double()
    expected = (logits.amax(1) - logits.mean(1)).mean()
    assert found.mean[:, 0].sum() == pytest.approx(float(expected), rel=1e-4)


def test_shares_of_logits_are_of_what_a_softmax_reads():
    path, tensors = made("llama", "text")
    batch = path.read(tensors)
    logits = batch["output"].double()
    centred = logits - logits.mean(1, keepdim=True)
    whole = path.split(batch, path.everything()).double()
    expected = torch.einsum("nto,no->nt", whole, centred / centred.square().sum(1, keepdim=True)).mean(0)
    np.testing.assert_allclose(contributions(path, [batch]).share, expected, rtol=1e-3, atol=1e-5)


def test_print_table_picture_and_file(split, tmp_path):
    path, batch, texts = split
    found = contributions(path, [batch], path.towards(texts), ["a", "b"])
    assert "sum against the model's own output: off by" in str(found) and "3 rows" in str(found)
    frame = found.to_pandas()
    assert list(frame["name"]) == [t.name for t in path.terms] and {"share", "a", "b std"} <= set(frame)
    grid, columns = found.grid(1)
    dims = path.model.towers["vision"].dims
    assert grid.shape == (dims.blocks, dims.heads + 1) and columns[-1] == "mlp"
    assert grid[1, 0] == found.mean[frame.index[frame["name"] == "vision.1.z.0"][0], 1]
    assert found.plot(target=0).get_title() == "a"
    kept = json.loads(found.save(tmp_path / "c.json").read_text())
    assert kept["error"] < 1e-5 and "neuron_mean" not in kept
    assert len(kept["neurons"]["a"]) == 100 and kept["neurons"]["share"][0][0].endswith("mlp_post")


def test_refusals(split):
    path, batch, texts = split
    with pytest.raises(ArgumentError, match="2 targets and 1 names"):
        contributions(path, [batch], path.towards(texts), ["a"])
    with pytest.raises(ArgumentError, match="no targets"):
        contributions(path, [batch], None, ["a"])
    with pytest.raises(ArgumentError, match="expected one at least"):
        contributions(path, [])
