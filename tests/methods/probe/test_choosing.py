"""Penalties and temperatures by held-out scores, also where a fold's probe has not seen a class."""

import tracemalloc

import numpy as np
import pytest
import torch

from mmxai.labels import Task
from mmxai.methods.probe.choosing import HeldOut
from mmxai.methods.probe.closed import Linear
from mmxai.methods.probe.design import Known

N, FOLDS = 400, 4


def held_out(kind, values, width):
    """Probes of three penalties, the second the best; `values` of items in the order of their folds."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(values), width, generator=draw)
    x += 2.0 * torch.from_numpy(values == 1 if kind == "multilabel" else values[:, None] == np.arange(width))
    fold = np.arange(len(values)) * FOLDS // len(values)
    task = Task("t", kind, "sample", tuple(map(str, range(width))))
    out = HeldOut(x, fold, np.arange(len(values)), (Known(task, values, "t"),))
    coef = torch.stack([s * torch.eye(width, dtype=torch.float64) for s in (0.1, 4.0, 50.0)])
    return out, Linear(coef, torch.full((3, width), 0.0 if kind == "classes" else -4.0, dtype=torch.float64))


def unseen(probe, k, value):
    """The probe of a fold without a class: as `lda` and `mean_difference` have it, none of it, no chance."""
    coef, intercept = probe.coef.clone(), probe.intercept.clone()
    coef[:, :, k], intercept[:, k] = 0, value
    return Linear(coef, intercept)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["classes", "multilabel"])
@pytest.mark.parametrize("method", ["lda", "mean_difference"])
def test_items_of_a_class_that_a_probe_has_not_seen_choose_nothing(kind, method):
    """Every fold's probe lacks another class or label: those that it has seen decide all the same."""
    draw = np.random.default_rng(1)
    values = draw.integers(0, 5, N) if kind == "classes" else (draw.random((N, 5)) < 0.4).astype(np.int8)
    out, probe = held_out(kind, values, 5)
    whole, _ = held_out(kind, values, 5)
    if method == "mean_difference":
        probe = Linear(probe.coef[1:2], probe.intercept[1:2])
    for fold in range(FOLDS):
        whole.add(fold, [probe])
        above = kind == "multilabel" and fold % 2
        out.add(fold, [unseen(probe, fold, torch.inf if above else -torch.inf)])
    found, expected = out.choose(0, method), whole.choose(0, method)
    assert found.penalty == expected.penalty == (1 if method == "lda" else 0)
    assert found.temperature == pytest.approx(expected.temperature, rel=0.3)


def test_nothing_to_choose_by():
    out, probe = held_out("classes", np.zeros(8, np.int64), 2)
    for fold in range(FOLDS):
        out.add(fold, [unseen(probe, 0, -torch.inf)])
    found = out.choose(0, "lda")
    assert (found.penalty, found.temperature) == (2, 1.0)


def test_memory_of_choosing_is_what_is_counted():
    """`memory.needs_of` counts 32 bytes a score of a task."""
    values = np.random.default_rng(0).integers(0, 60, 4000)
    out, probe = held_out("classes", values, 60)
    for fold in range(FOLDS):
        out.add(fold, [probe])
    tracemalloc.start()
    out.choose(0, "lda")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 16 < peak / (3 * 4000 * 60) < 32
