"""Codelengths: of noise they are the uniform code's, of what can be told they are short, and by hand."""

import numpy as np
import pytest
import torch

from mmxai.labels import Task
from mmxai.methods.probe.columns import Columns
from mmxai.methods.probe.design import Known
from mmxai.methods.probe.mdl import SHARES, online_codes
from mmxai.methods.probe.options import PENALTIES
from mmxai.methods.probe.site_probes import rows_probe

N = 4000


def code(x, *known):
    columns = Columns(known)
    fit = rows_probe(columns, PENALTIES)
    return online_codes(x, np.arange(len(x)), columns, fit)


def classes(values, k):
    return Known(Task("t", "classes", "sample", tuple(map(str, range(k)))), values, "t")


def test_noise_costs_the_uniform_code_and_what_can_be_told_less():
    draw = np.random.default_rng(0)
    noise, y = draw.integers(0, 4, N), draw.integers(0, 4, N)
    x = torch.from_numpy(draw.normal(size=(N, 20)) + 3 * np.eye(20)[y]).float()
    of_noise, of_y = code(x, classes(noise, 4), classes(y, 4))
    assert of_noise.uniform == 2 and 1.99 < of_noise.bits < 2.1
    # As well as anybody could: the posterior of the truth costs 0.11 bits an item.
    logits = 3 * x[:, :4].numpy()
    best = (np.log(np.exp(logits).sum(1)) - logits[np.arange(N), y]).mean() / np.log(2)
    assert best < of_y.bits < best + 0.12 and of_y.compression == of_y.uniform / of_y.bits


def test_more_labels_more_bits():
    draw = np.random.default_rng(1)
    y = (draw.random((N, 3)) < 0.5).astype(np.int8)
    x = torch.from_numpy(draw.normal(size=(N, 8)) * 0.2 + np.pad(y, ((0, 0), (0, 5)))).float()
    known = Known(Task("m", "multilabel", "sample", ("a", "b", "c")), y, "m")
    number = Known(Task("n", "regression", "sample", ("n",)), draw.normal(size=N), "n")
    many, none = code(x, known, number)
    assert none is None and many.uniform == 3 and 0.05 < many.bits < 0.6


def test_a_code_cannot_look_ahead():
    """Labels of the last block decide nothing of what earlier blocks cost."""
    draw = np.random.default_rng(2)
    y = draw.integers(0, 3, N)
    x = torch.from_numpy(draw.normal(size=(N, 6)) + 2 * np.eye(6)[y]).float()
    changed = y.copy()
    changed[N // 2 :] = draw.integers(0, 3, N // 2)
    (one,), (other,) = code(x, classes(y, 3)), code(x, classes(changed, 3))
    assert other.bits > one.bits + 0.5, "the last block is half of all"
    (half,) = code(x[: N // 2], classes(y[: N // 2], 3))
    sizes = [round(s * N) for s in SHARES]
    assert sizes[-2] == N // 2
    # Less its own first block, which is coded uniformly, a prefix costs what it costs in the whole.
    assert half.bits * (N // 2) == pytest.approx(one.bits * N, rel=0.6)
