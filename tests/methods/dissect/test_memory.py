"""Counting in memory that does not grow with the pictures."""

import numpy as np
import pytest
import torch

from mmxai.bench.memory import growth
from mmxai.concepts import Concept, Concepts, ImageLabels
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.store import create_store, open_store
from mmxai.types import Rows
from tests.memory import linux

SITE, UNITS, GRID, PART = "vision.0.mlp_post", 256, 8, 100
LIMIT = 150 << 20


class Blobs(Concepts):
    concepts = tuple(Concept(f"thing {k}", "thing", k) for k in range(40))
    categories, about = ("thing",), "blobs"
    identity = {"source": "blobs"}  # noqa: RUF012

    def labels(self, sample):
        draw = np.random.default_rng(sample)
        coarse = draw.integers(-1, 40, (1, 4, 4)).astype(np.int32)
        return ImageLabels(coarse.repeat(16, 1).repeat(16, 2), np.zeros(0, np.int64), np.ones(1, bool))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """6,000 pictures, 375 MiB of rows."""
    path = tmp_path_factory.mktemp("large") / "acts.zarr"
    draw, tile = (
        torch.Generator().manual_seed(0),
        {"affine": [1 / 8, 0, 0, 0, 1 / 8, 0], "grid": [GRID, GRID]},
    )
    with create_store(path, {SITE: UNITS}, dtype="float32", samples_per_part=PART, durable=False) as writer:
        for start in range(0, 6000, PART):
            place = torch.arange(GRID * GRID).repeat(PART)
            rows = Rows.make(
                sample=torch.arange(PART).repeat_interleave(GRID * GRID), position=place, image=0,
                y=place // GRID, x=place % GRID,
            )  # fmt: skip
            stored = [{"key": f"p{i}", "size": [64, 64], "tiles": [tile]} for i in range(start, start + PART)]
            writer.write(stored, {SITE: torch.randn(len(place), UNITS, generator=draw)}, rows)
    return path


@linux
def test_a_store_larger_than_what_is_held(path):
    config = DissectConfig(
        sites=(SITE,), controls=("shuffled",), bootstrap=50, sketch_rows=20_000, held_out=0.2
    )
    with open_store(path, verify="never") as store:
        found, grown = growth(lambda: dissect(store, Blobs(), config)[SITE])
        assert found.counts.pictures == 6000 and store[SITE].nbytes > 2 * LIMIT
    assert grown < LIMIT, f"{grown / 2**20:.0f} MiB"
