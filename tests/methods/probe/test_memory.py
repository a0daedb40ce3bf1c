"""A store several times the memory that may be used."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mmxai.bench.memory import growth
from mmxai.labels import read_labels
from mmxai.linalg.logistic import array_blocks, bytes_needed, fit_logistic
from mmxai.methods.probe import ProbeConfig, group, probe
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.memory import linux

SITES, SAMPLES, PER, WIDTH = 4, 1600, 64, 256
LIMIT = 96 << 20
ROOT = Path(__file__).parents[3]


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


OPTIONS = {"batch": 2048, "kept": 2048, "test_rows": 4096, "bootstrap": 50}


@linux
def test_memory_is_what_was_stated(store):
    opened, path = store
    labels = read_labels(path, opened)
    assert sum(site.nbytes for site in opened.values()) > 4 * LIMIT
    # Libraries, and what they hold for good, on another site first.
    probe(opened, labels, ProbeConfig(sites="vision.3.resid_post", **OPTIONS))
    report, grown = growth(
        lambda: probe(opened, labels, ProbeConfig(memory=LIMIT / (1 << 30) / 2, **OPTIONS))
    )
    assert len(report.scores) == SITES and all(s.figures["accuracy"].value > 0.85 for s in report.scores)
    # Half of it for what is accumulated, the rest for who the rows are and for solving.
    assert grown < LIMIT, f"{grown / 2**20:.0f} MiB"


@linux
def test_logistic_regression_streams_what_memory_does_not_hold(store, monkeypatch):
    """A site's training rows, 80 MiB, are more than the half of memory that is for rows; the store is four
    times all of it."""
    opened, path = store
    labels = read_labels(path, opened)
    assert sum(site.nbytes for site in opened.values()) > 4 * LIMIT
    options = OPTIONS | {"sites": ("vision.0.resid_post", "vision.2.resid_post"), "method": "logistic"}
    options |= {"penalties": (1e-3, 1e-1), "mdl": False}
    probe(opened, labels, ProbeConfig(**options | {"sites": "vision.3.resid_post", "memory": 0.05}))
    passes, inner = [], group.read_items
    monkeypatch.setattr(group, "read_items", lambda *args: passes.append(args) or inner(*args))
    report, grown = growth(lambda: probe(opened, labels, ProbeConfig(memory=LIMIT / (1 << 30), **options)))
    assert len(passes) > 12, "rows are read again, an iteration a time"
    assert len(report.scores) == 2 and all(s.figures["accuracy"].value > 0.85 for s in report.scores)
    assert all(s.converged for s in report.scores)
    assert grown < LIMIT, f"{grown / 2**20:.0f} MiB"


def grown_by_logistic(width, classes, penalties):
    """In a process of its own: what one has freed it takes again."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20000, width, generator=draw)
    y = torch.stack([torch.randint(k, (len(x),), generator=draw) for k in classes], 1)
    blocks = array_blocks(x, y, torch.arange(len(x)) % 4, rows=4096)
    fit_logistic(array_blocks(x[:100, :8], y[:100, :1] % 2), [2], [1.0])
    warnings.simplefilter("ignore")
    options = {"folds": 4, "total": True, "tolerance": 1e-14, "max_passes": 14}
    _, grown = growth(lambda: fit_logistic(blocks, classes, [0.1**p for p in range(penalties)], **options))
    print(grown, bytes_needed(width, classes, penalties, 4, total=True, rows=4096))


@linux
@pytest.mark.parametrize(
    ("width", "classes", "penalties"), [(512, [40], 7), (64, [300, 5], 4), (512, [2], 2)]
)
def test_what_logistic_regression_holds_is_what_it_says(width, classes, penalties):
    code = (
        f"from tests.methods.probe.test_memory import *; grown_by_logistic({width}, {classes}, {penalties})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    grown, stated = (int(word) / 2**20 for word in done.stdout.split())
    assert 0.3 * stated < grown < stated, f"{grown:.0f} of {stated:.0f} MiB"
