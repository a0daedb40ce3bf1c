"""Contributions and ablation of a store several times the memory they take."""

import torch

import mmxai
from mmxai.bench.memory import growth
from mmxai.methods.path import Path, ablate, contributions
from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows
from tests.memory import linux

SAMPLES, PART = 8000, 1000
LIMIT = 64 << 20
"""What docs/path.md states, at the shapes CLIP's size and batches of 512 rows."""


@linux
def test_memory_does_not_grow_with_rows(tmp_path):
    path = Path(mmxai.load_model("shapes-clip"), "vision")
    widths = {site: path.model.width_of(site) for site in path.sites}
    draw = torch.Generator().manual_seed(0)
    with create_store(
        tmp_path / "s.zarr", {"vision": widths}, dtype="float32", samples_per_part=PART, durable=False
    ) as writer:
        acts = {site: torch.randn(PART, width, generator=draw) for site, width in widths.items()}
        rows = Rows.make(sample=torch.arange(PART), token_type=TOKEN_CODES["cls"])
        for start in range(0, SAMPLES, PART):
            writer.write([f"k{i}" for i in range(start, start + PART)], acts, {"vision": rows})
    targets = path.towards(torch.randn(4, path.out, generator=draw))
    labels = torch.arange(SAMPLES) % 4
    sets = {"heads": ["vision.5.z.0", "vision.5.z.1"]}
    with mmxai.open_store(tmp_path / "s.zarr", verify="never") as store:
        assert sum(store[site].nbytes for site in path.sites) > 2.5 * LIMIT
        contributions(path, [next(iter(path.batches(store)))], targets, list("abcd"))  # what libraries keep

        def work():
            found = contributions(path, path.batches(store), targets, list("abcd"))
            ablate(path, lambda: path.batches(store), targets, labels, sets, draws=5)
            return found

        found, grown = growth(work)
    assert found.rows == SAMPLES
    assert grown < LIMIT, f"{grown / 2**20:.0f} MiB"
