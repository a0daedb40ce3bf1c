"""The judge's embeddings are the model's own; they are kept and found again; other data are refused."""

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, DataError
from mmxai.methods.describe import judge, look, read_words
from mmxai.models import load_model
from mmxai.shapes import ShapesWorld
from tests.harvesting.conftest import save_tiny_clip

WORDS = ["red", "blue circle", "red", "", "a large star"]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    home = tmp_path_factory.mktemp("judge")
    world = ShapesWorld(40, seed=3, size=32)
    model = load_model(save_tiny_clip(home / "clip"))
    mmxai.harvest(model, world, sites="vision.1.resid_post", store=home / "acts.zarr", progress=False)
    with mmxai.open_store(home / "acts.zarr") as store:
        yield model, store, world


def test_embeddings_are_the_models(known):
    model, store, world = known
    found = look(model, store, world, WORDS, batch=7, template="a picture of {}")
    assert found.words == ("red", "blue circle", "a large star") and found.studied
    run = model.run([world[i].pil for i in range(40)], capture=["vision.embeds"])
    own = torch.nn.functional.normalize(run.acts["vision.embeds"][:, 0], dim=1)
    torch.testing.assert_close(found.images, own, atol=1e-5, rtol=1e-5)
    run = model.run([f"a picture of {word}" for word in found.words], capture=["text.embeds"])
    own = torch.nn.functional.normalize(run.acts["text.embeds"][:, 0], dim=1)
    torch.testing.assert_close(found.texts, own, atol=1e-5, rtol=1e-5)
    assert found.samples.tolist() == list(range(40))
    torch.testing.assert_close(found.of(np.array([5, 3])), found.images[[5, 3]])


def test_embeddings_are_kept_and_a_stopped_run_goes_on(known, tmp_path, monkeypatch):
    model, store, world = known
    monkeypatch.setattr(judge, "PIECE", 16)
    whole = look(model, store, world, WORDS)
    said = []

    def stop(what):
        said.append(what)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(model, store, world, WORDS, cache=tmp_path, say=stop)
    assert len(list(tmp_path.iterdir())) == 2
    said = []
    found = look(model, store, world, WORDS, cache=tmp_path, say=said.append)
    assert [s.split(":")[1].split()[0] for s in said] == ["pictures", "words"]  # the last 8 pictures alone
    torch.testing.assert_close(found.images, whole.images, atol=1e-6, rtol=0)
    said = []
    again = look(model, store, world, WORDS, cache=tmp_path, say=said.append)
    assert said == [] and torch.equal(again.images, found.images) and torch.equal(again.texts, found.texts)
    look(model, store, world, WORDS, cache=tmp_path, template="a {}", say=said.append)
    assert len(said) == 1  # the words alone are others


def test_what_is_kept_is_checked(known, tmp_path):
    model, store, world = known
    look(model, store, world, WORDS, cache=tmp_path)
    next(tmp_path.glob("words*")).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="remove the file"):
        look(model, store, world, WORDS, cache=tmp_path)


def test_refuses(known, tmp_path):
    model, store, world = known
    with pytest.raises(DataError, match=r"another sample 0 .* than was harvested"):
        look(model, store, ShapesWorld(40, seed=4, size=32), WORDS)
    with pytest.raises(DataError, match="got 10 samples, expected 40 at least"):
        look(model, store, ShapesWorld(10, seed=3, size=32), WORDS)
    with pytest.raises(ArgumentError, match="got a stream"):
        look(model, store, iter(["a"]), WORDS)
    with pytest.raises(ArgumentError, match="1 different words"):
        look(model, store, world, ["red", "red", " "])
    with pytest.raises(ArgumentError, match="template 'a photo'"):
        look(model, store, world, WORDS, template="a photo")
    plain = mmxai.wrap(torch.nn.Conv2d(3, 2, 1), prepare=lambda sample: torch.zeros(3, 4, 4))
    with pytest.raises(ArgumentError, match="expected a dual encoder"):
        look(plain, store, world, WORDS)


def test_word_lists(tmp_path, shared_data):
    (tmp_path / "w.txt").write_text("red\n\n blue star \nred\n")
    assert read_words(tmp_path / "w.txt") == ["red", "blue star"]
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(DataError, match="got no word"):
        read_words(tmp_path / "none.txt")
    (tmp_path / "other.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        read_words(tmp_path / "other.txt")
    counts = {"20k": 20_000, "broden_labels_clean": 1153, "imagenet_labels": 1000}
    for name, count in counts.items():
        assert len(read_words(shared_data / f"text_lists/{name}.txt")) == pytest.approx(count, abs=20)
