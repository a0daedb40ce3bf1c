"""From a harvested store the split is that of the live model: each sample's own read-out token."""

import pytest
import torch
from transformers import BertConfig, BertModel

import mmxai
from mmxai.errors import ArgumentError
from mmxai.methods.path import Path
from mmxai.shapes import ShapesWorld
from tests.models.contract import shake


def outputs(path, store, of=Path.output):
    """What is put together from the store's rows, in the order of the samples."""
    found = {}
    for batch in path.batches(store, rows=5):
        for number, row in zip(batch.rows.sample.tolist(), of(path, batch), strict=True):
            assert number not in found
            found[number] = row
    return torch.stack([found[n] for n in sorted(found)])


def harvested(path, data, folder):
    mmxai.harvest(
        path.model, data, sites=tuple(path.sites), tokens=path.tokens, store=folder, store_dtype="float32",
        progress=False, long="truncate" if path.model.modality(path.tower) == "text" else "error",
    )  # fmt: skip
    return mmxai.open_store(folder)


def close(a, b, off=1e-4):
    assert a.shape == b.shape and float(((a - b).norm(dim=1) / b.norm(dim=1)).max()) < off


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_shapes_clip(tower, tmp_path):
    path = Path(mmxai.load_model("shapes-clip"), tower)
    world = ShapesWorld(12, seed=3)
    with harvested(path, world, tmp_path / "s.zarr") as store:
        found = outputs(path, store)
        width = sum(store[s].shape[1] for s in path.sites)
        rows = len(store.rows[tower].sample)
    # The factored form: a row a sample, as wide as heads, neurons and embedding, not terms x output.
    assert rows == 12 and width < len(path.terms) * path.out
    samples = [world[i] for i in range(12)]
    own = path.model.run(samples, capture=f"{tower}.embeds").acts[f"{tower}.embeds"][:, 0]
    close(found, own)
    assert (own - own.mean(0)).norm(dim=1).min() > 0.05  # rows differ: another's row would be seen


def test_a_language_models_last_tokens(shared_data, tmp_path):
    path = Path(mmxai.load_model(shared_data / "stories260K"))
    texts = ["Once upon a time", "The dog", "Lily and Tom went to the park to play with a big red ball"]
    with harvested(path, texts, tmp_path / "s.zarr") as store:
        found = outputs(path, store)
        split = outputs(path, store, lambda p, batch: p.split(batch, p.everything()).sum(1))
    own = torch.stack([path.model.run(t).out.logits[0, -1] for t in texts])
    close(found, own)
    close(split, found)


def test_the_first_of_the_special_tokens(tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    from mmxai.shapes.model import build_tokenizer

    tokenizer = build_tokenizer()
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **size))
    shake(model).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    path = Path(mmxai.load_model(tmp_path / "bert"))
    texts = ["a red circle", "a blue square at the top"]
    with harvested(path, texts, tmp_path / "s.zarr") as store:
        assert len(store.rows["text"].sample) > 2  # its end tokens, too
        found = outputs(path, store)
    own = torch.stack([path.model.run(t).out.last_hidden_state[0, 0] for t in texts])
    close(found, own)


def test_a_store_without_the_sites_is_refused(tmp_path):
    model = mmxai.load_model("shapes-clip")
    mmxai.harvest(model, ShapesWorld(2), sites=("vision.0.z",), store=tmp_path / "s.zarr", progress=False)
    with mmxai.open_store(tmp_path / "s.zarr") as store, pytest.raises(ArgumentError, match="tokens='cls'"):
        next(iter(Path(model, "vision").batches(store)))
