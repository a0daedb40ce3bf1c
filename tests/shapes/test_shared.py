"""What top pictures share: a unit's own concept where it has one; nothing much for noise."""

import numpy as np
import pytest
import torch

from mmxai.shapes import ShapesWorld
from mmxai.shapes.labels import concept_names
from mmxai.shapes.shared import shared_concepts
from mmxai.store import create_store, open_store

PICTURES, NOISE = 400, 5


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A unit a concept (1 where a picture has it, and noise that orders them), then units of noise alone."""
    concepts = ShapesWorld(PICTURES, seed=3).batch(range(PICTURES), texts=0).concepts
    noise = torch.rand(PICTURES, concepts.shape[1] + NOISE, generator=torch.Generator().manual_seed(0))
    x = 0.1 * noise
    x[:, : concepts.shape[1]] += torch.from_numpy(concepts)
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    with create_store(path, {"units": x.shape[1]}, dtype="float32", durable=False) as writer:
        writer.write([{"key": str(i)} for i in range(PICTURES)], {"units": x})
    with open_store(path) as store:
        yield concepts, shared_concepts(store, "units", concepts, 1000)


def test_a_unit_shares_its_own_concept(found):
    concepts, neurons = found
    own = [n for n in neurons if n.unit < concepts.shape[1]]
    common = concepts.sum(0) >= 16
    for n in own:
        column = concepts[:, concept_names().index(n.concept)]
        # Another concept can only win where all that have the unit's own have it too, and it is rarer.
        assert n.hits == n.of and n.base <= concepts[:, n.unit].mean() if common[n.unit] else True
        assert n.base == column.mean()
    assert sum(concept_names()[n.unit] == n.concept for n in own if common[n.unit]) > 25


def test_each_on_another_concept_the_clearest_first(found):
    neurons = found[1]
    assert len({n.concept for n in neurons}) == len(neurons)
    assert (np.diff([n.bits for n in neurons]) <= 0).all()


def test_noise_shares_little_and_says_so(found):
    concepts, neurons = found
    loudest = max((n.bits for n in neurons if n.unit >= concepts.shape[1]), default=0)
    assert loudest < np.median([n.bits for n in neurons if n.unit < concepts.shape[1]]) / 2
    assert str(neurons[0]) == (
        f"{neurons[0].concept}: {neurons[0].hits} of the top {neurons[0].of} pictures, "
        f"{neurons[0].base:.0%} of all"
    )
