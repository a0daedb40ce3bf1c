"""A store several times the memory that may be used."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mmxai.labels import read_labels
from mmxai.methods.probe import ProbeConfig, probe
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows

SITES, SAMPLES, PER, WIDTH = 4, 1600, 64, 256
LIMIT = 96 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """400 MiB of rows; a class in the first columns of every site."""
    path = tmp_path_factory.mktemp("large") / "acts.zarr"
    names = [f"vision.{i}.resid_post" for i in range(SITES)]
    draw = torch.Generator().manual_seed(0)
    y = np.random.default_rng(0).integers(0, 3, SAMPLES)
    with create_store(
        path, {"vision": dict.fromkeys(names, WIDTH)}, dtype="float32", samples_per_part=100, durable=False
    ) as writer:
        for start in range(0, SAMPLES, 100):
            x = torch.randn(100 * PER, WIDTH, generator=draw)
            own = torch.from_numpy(y[start : start + 100]).repeat_interleave(PER)
            x[torch.arange(len(x)), own] += 2
            rows = Rows.make(
                sample=torch.arange(100).repeat_interleave(PER),
                token_type=TOKEN_CODES["patch"],
            )
            acts = {name: x + i for i, name in enumerate(names)}
            writer.write([f"k{i}" for i in range(start, start + 100)], acts, {"vision": rows})
    labels = path.parent / "l.csv"
    labels.write_text("sample,label\n" + "\n".join(f"k{i},{c}" for i, c in enumerate(y)))
    with open_store(path, verify="never") as opened:
        yield opened, labels


def anonymous():
    """Memory that is not a map of the store's files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


class Peak(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.first = self.most = anonymous()
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.005):
            self.most = max(self.most, anonymous())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc to read memory from")
def test_memory_is_what_was_stated(store):
    opened, path = store
    labels = read_labels(path, opened)
    assert sum(site.nbytes for site in opened.values()) > 4 * LIMIT
    options = {"batch": 2048, "kept": 2048, "test_rows": 4096, "bootstrap": 50}
    # Libraries, and what they hold for good, on another site first.
    probe(opened, labels, ProbeConfig(sites="vision.3.resid_post", **options))
    peak = Peak()
    peak.start()
    report = probe(opened, labels, ProbeConfig(memory=LIMIT / (1 << 30) / 2, **options))
    peak.done.set()
    peak.join()
    assert len(report.scores) == SITES and all(s.figures["accuracy"].value > 0.85 for s in report.scores)
    # Half of it for what is accumulated, the rest for who the rows are and for solving.
    assert peak.most - peak.first < LIMIT, f"{(peak.most - peak.first) / 2**20:.0f} MiB"
