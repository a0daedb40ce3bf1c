"""Concepts out of captions and out of labels."""

import numpy as np
import pytest

from mmxai.errors import DataError
from mmxai.labels import read_labels
from mmxai.labels.concepts import caption_truth, label_truth
from tests.methods.decompose.stores import make_store

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    store, _, much = make_store(tmp_path_factory.mktemp("s") / "acts.zarr", samples=60)
    with store:
        yield store, much.numpy()


def test_words_of_captions_are_concepts(held):
    store, much = held
    truth = caption_truth(store)
    columns = [truth.names.index(word) for word in WORDS]
    samples = np.array([7, 3, 59])
    assert np.array_equal(truth.present(samples)[:, columns], much[samples])
    assert "alpha and beta" in truth.names and "and" not in truth.names and "picture and" not in truth.names
    assert len(caption_truth(store, most=3).names) == 3


def test_labels_of_samples_are_concepts(held, tmp_path):
    store, much = held
    path = tmp_path / "l.csv"
    named = ["yes" if row[0] else "no" for row in much]
    lines = [f"s{i},{name}" for i, name in enumerate(named) if i != 5]
    path.write_text("sample,label\n" + "\n".join(lines) + "\n")
    truth = label_truth(read_labels(path, store))
    assert set(truth.names) == {"no", "yes"}
    found = truth.present(np.arange(60))
    assert not found[5].any()  # of whom nothing is known
    assert all(found[i, truth.names.index(n)] and found[i].sum() == 1 for i, n in enumerate(named) if i != 5)


def test_refuses_what_has_no_concepts(held, tmp_path):
    store, _ = held
    path = tmp_path / "n.csv"
    path.write_text("sample,label\n" + "\n".join(f"s{i},{i / 7:.3f}" for i in range(60)))
    with pytest.raises(DataError, match="no classes of whole samples"):
        label_truth(read_labels(path, store, regression=("label",)))
