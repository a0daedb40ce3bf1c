"""The store and labels of the modules that name a number of SAMPLES."""

import pytest

from mmxai.labels import read_labels
from mmxai.store import open_store
from tests.methods.probe.stores import make, write_labels


@pytest.fixture(scope="module")
def store(request, tmp_path_factory):
    with open_store(make(tmp_path_factory.mktemp("probe") / "acts.zarr", request.module.SAMPLES)) as opened:
        yield opened


@pytest.fixture(scope="module")
def labels(request, store, tmp_path_factory):
    path = write_labels(tmp_path_factory.mktemp("labels") / "l.csv", request.module.SAMPLES)
    return read_labels(path, store, regression=["number"], multilabel=["labels"])
