"""A dictionary planted in synthetic activations is found again: more features than dimensions."""

import numpy as np
import pytest

import mmxai
from mmxai.methods.sae import TrainConfig, train_sae
from mmxai.methods.sae.overlap import overlap
from mmxai.shapes.dictionary import Dictionary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """512 features in 256 dimensions, 5 active on average, as in Sharkey, Braun and Millidge (2022)."""
    dictionary = Dictionary(512, 256, probability=0.01, seed=1)
    path = tmp_path_factory.mktemp("toy") / "s"
    with mmxai.create_store(path, {"toy": 256}, dtype="float32", samples_per_part=1 << 14) as writer:
        for start in range(0, 1 << 16, 1 << 13):
            rows = np.arange(start, start + (1 << 13))
            writer.write([str(r) for r in rows], {"toy": dictionary[rows]})
    return path, dictionary


@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_planted_directions_are_found(planted, arch):
    path, dictionary = planted
    config = TrainConfig(
        sites=("toy",), arch=arch, latents=1024, k=8, batch=512, epochs=8, lr=2e-3, dead_after=20_000
    )
    with mmxai.open_store(path) as store:
        (sae,) = train_sae(store, config, progress=False)
    found = overlap(dictionary.directions, sae)
    assert found.mean_max >= 0.95
    assert found.chance < 0.4
