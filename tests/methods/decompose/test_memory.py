"""Every kind, figures, names and codes of a store several times the memory that may be used."""

import pytest
import torch

from mmxai.bench.memory import growth
from mmxai.labels import Truth
from mmxai.linalg.overlap import matched_cosine
from mmxai.methods.decompose import decompose, encode_store
from mmxai.methods.decompose.config import KINDS
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.memory import linux

SITE, WIDTH, UNITS, SAMPLES, PER, PART = "vision.0.resid_post", 256, 8, 1600, 128, 50
LIMIT = 64 << 20


def rows_of(first):
    """`PART` samples from `first` on: sparse sums of planted directions >= 0 of disjoint columns."""
    draw = torch.Generator().manual_seed(first)
    amounts = -torch.rand(PART * PER, UNITS, generator=draw).clamp(min=1e-6).log()
    amounts *= torch.rand(PART * PER, UNITS, generator=draw) < 0.3
    return amounts @ directions() + 0.01 * torch.rand(PART * PER, WIDTH, generator=draw)


def directions():
    return torch.eye(UNITS).repeat_interleave(WIDTH // UNITS, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """200 MiB in 32 parts."""
    path = tmp_path_factory.mktemp("large") / "acts.zarr"
    with create_store(
        path, {SITE: WIDTH}, space="vision", dtype="float32", samples_per_part=PART, durable=False
    ) as writer:
        for first in range(0, SAMPLES, PART):
            rows = Rows.make(
                sample=torch.arange(PART).repeat_interleave(PER), token_type=TOKEN_CODES["patch"]
            )
            keys = [f"k{i}" for i in range(first, first + PART)]
            writer.write(keys, {SITE: rows_of(first)}, rows)
    with open_store(path, verify="never") as opened:
        yield opened


@linux
def test_memory_is_what_was_stated(store, tmp_path):
    assert store[SITE].nbytes > 3 * LIMIT
    known = torch.rand(SAMPLES, 3, generator=torch.Generator().manual_seed(1)).numpy() < 0.3
    options = {
        "units": UNITS, "truth": Truth.of_table(("a", "b", "c"), known), "sample": 4096,
        "passes": 1, "seeds": 0, "split": None, "evaluated": 4096,
    }  # fmt: skip
    # Libraries, and what they hold for good, on few rows first.
    decompose(store, SITE, KINDS, **options | {"sample": 256, "rows": 300, "evaluated": 300})

    def work():
        report = decompose(store, SITE, KINDS, **options)
        encode_store(list(report.dictionaries.values()), store, tmp_path / "codes.zarr")
        return report

    report, grown = growth(work)
    for kind in KINDS:
        facts = report.dictionaries[kind].facts
        assert facts["rows"] == SAMPLES * PER and (kind == "pca" or facts["passes"] >= 1)
    for kind in ("ica", "nmf"):
        assert matched_cosine(report.dictionaries[kind].directions, directions()) > 0.97
    with open_store(tmp_path / "codes.zarr") as codes:
        assert len(codes[f"{SITE}.nmf"]) == SAMPLES * PER
    assert grown < LIMIT, f"{grown / 2**20:.0f} MiB"
