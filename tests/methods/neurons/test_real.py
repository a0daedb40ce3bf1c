"""Neurons of a real language model on real sentences, beside scikit-learn; a store larger than memory."""

import subprocess
import sys

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import mmxai
from mmxai.labels.reading import read_labels
from mmxai.methods.neurons import RowLabels, logit_contribution, neurons
from mmxai.types import Rows


def test_sentiment_neurons_of_stories260k(shared_data, tmp_path):
    lines = (shared_data / "text_labels" / "stsa.binary.dev").read_text(encoding="utf-8").splitlines()[:150]
    label, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    model = mmxai.load_model(str(shared_data / "stories260K"))
    site = "text.3.mlp_post"
    mmxai.harvest(
        model, [{"text": t} for t in texts], sites=(site,), store=str(tmp_path / "acts"), tokens="last",
        long="truncate",
    )  # fmt: skip
    table = "".join(f"{i},{'good' if v == '1' else 'bad'}\n" for i, v in enumerate(label))
    (tmp_path / "labels.csv").write_text("sample,label\n" + table)
    with mmxai.open_store(tmp_path / "acts") as store:
        known = RowLabels.of_labels(read_labels(tmp_path / "labels.csv", store), store, "text")
        found = neurons(store, site, labels=known)
        x = store[site].gather(np.arange(150), torch.float32).numpy()
        y = np.array([label[s] == "1" for s in store[site].rows.sample.tolist()])
    k = known.names.index("good")
    exact = [roc_auc_score(y, x[:, u]) for u in range(x.shape[1])]
    error = found.labels.auc_error[:, k]  # of float32 values: as many bits of each as memory holds counts of
    assert (np.abs(found.labels.auc[:, k] - exact) <= error + 1e-6).all() and error.max() < 2e-3
    # The best of so many units on 150 sentences: a figure, and no proof of anything.
    assert 0.55 < found.labels.auc[:, k].max() < 0.9
    told = logit_contribution(model, site, [list(texts[:8])])
    assert told.items > 50 and np.isfinite(told.mean).all()


_WATCHED = """
import sys, torch, mmxai
from mmxai.bench.memory import growth
from mmxai.methods.neurons import NeuronsConfig, RowLabels, match, neurons
from mmxai.methods.neurons.redundancy import redundancy
from mmxai.store.units import Units
import numpy as np
store, memory = mmxai.open_store(sys.argv[1]), int(sys.argv[2])
torch.ones(8, 8) @ torch.ones(8, 8)
"""

_SURVEY = """
def of(rows):
    return np.ones(len(rows), bool), np.stack([rows.sample.numpy() % n == 0 for n in (2, 3)], 1)
labels = RowLabels(("even", "third"), of)
found, grown = growth(lambda: neurons(store, "a", NeuronsConfig(memory=memory), labels))
print(found.rows, grown)
"""

_WIDE = """
def both():
    units = Units(store, "a.sae")
    Units.values = None  # no row is made dense
    twins = redundancy(units, np.arange(len(units.site)), rows=1 << 20, level=0.9, near=4, memory=memory)
    found = match(units, units, memory=memory)
    assert (found.best()[0] == np.arange(units.count)).mean() > 0.99
    assert [0, units.count - 1] in twins.groups
    return twins.rows
rows, grown = growth(both)
print(rows, grown)
"""


def _watched(program, path, memory):
    """Rows seen, and bytes taken at most, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED + program, str(path), str(memory)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return map(int, done.stdout.split())


def test_a_store_larger_than_the_memory_it_takes(tmp_path):
    """The limit that docs/neurons.md states: `memory`, 96 MiB and 8 bytes a row; thrice that is read."""
    rows, width, memory = 800_000, 128, 16 << 20
    limit = memory + (96 << 20) + 8 * rows
    with mmxai.create_store(tmp_path / "big", {"a": width}, dtype="float32", durable=False) as writer:
        for start in range(0, rows, 50_000):
            x = torch.randn(50_000, width, generator=torch.Generator().manual_seed(start))
            sample = torch.arange(50_000) // 50
            writer.write([f"{start} {i}" for i in range(1000)], {"a": x}, Rows.make(sample=sample))
    assert rows * width * 4 > 3 * limit
    seen, taken = _watched(_SURVEY, tmp_path / "big", memory)
    assert seen == rows and taken < limit


def test_pairs_of_very_many_latents_within_memory(tmp_path):
    """8,192 latents: all pairs in float64 would be 512 MiB, the rows made dense 256 MiB."""
    rows, width, kept, memory = 8192, 8192, 8, 64 << 20
    made = torch.Generator().manual_seed(0)
    with mmxai.create_store(
        tmp_path / "wide", {"a.sae": width}, dtype="topk", topk=kept + 1, durable=False
    ) as writer:
        for start in range(0, rows, 1024):
            x = torch.zeros(1024, width)
            x.scatter_(1, torch.randint(width - 1, (1024, kept), generator=made), 1.0)
            x[:, width - 1] = x[:, 0]  # a twin
            sample = torch.arange(1024) // 8
            writer.write([f"{start} {i}" for i in range(128)], {"a.sae": x}, Rows.make(sample=sample))
    seen, taken = _watched(_WIDE, tmp_path / "wide", memory)
    assert seen == rows and taken < memory + (96 << 20)
