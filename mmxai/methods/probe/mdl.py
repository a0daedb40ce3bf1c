"""Codelength of labels given activations, by the online code (Voita & Titov 2020, Blier & Ollivier 2018).

Sender and receiver share the activations. The first labels are sent by a uniform code, each later block by
the probe that was trained on all before it; the total says how soon a probe does well, not how well it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, log2

import numpy as np
import torch

from mmxai.labels.labels import Task
from mmxai.methods.probe.calibration import LogLoss
from mmxai.methods.probe.columns import Columns
from mmxai.methods.probe.site_probes import Probes, scores_of

SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Of the items, at which the probe is trained anew (those of Voita & Titov)."""

MIX = 1e-3
"""Share of the uniform distribution in every code: what one wrong, certain answer can cost is bounded."""

_SCALES = tuple(2.0**e for e in range(-1, 8))
_LOOKED_AT = 1024  # items that choose

Fit = Callable[[torch.Tensor, torch.Tensor], Probes]


@dataclass(frozen=True)
class Codelength:
    """Bits an item, of the online code and of the uniform one; `items` were sent."""

    bits: float
    uniform: float
    items: int

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code."""
        return self.uniform / self.bits


def online_codes(x: torch.Tensor, places: np.ndarray, columns: Columns, fit: Fit) -> list[Codelength | None]:
    """A code for each task and control of `columns`; None of numbers, which are not sent.

    x: float32 `[n, D]`, items in the order in which they are sent, `places` theirs in the cohort. fit: (x
    `[m, D]`, y `[m, T]`) -> a probe for each task, of every penalty. Which penalty and which temperature send
    a block is what would have sent the block before it best, so that the receiver knows them; the first has
    the largest penalty and temperature 1/2.
    """
    y = torch.from_numpy(columns.encode(places))
    cuts = sorted({round(share * len(x)) for share in SHARES} - {0})
    sent = [0.0] * len(columns.known)
    best: list[tuple[int, float]] = []
    for start, stop in pairwise(cuts):
        probes = fit(x[:start], y[:start])
        if not best:
            best = [(len(probe.coef) - 1, 2.0) for probe in probes]
        for k, known in enumerate(columns.known):
            if known.task.kind == "regression":
                continue
            block, values = scores_of(probes[k], x[start:stop]).numpy(), known.values[places[start:stop]]
            at, scale = best[k]
            loss = LogLoss(known.task, block[at], values)(scale, MIX)
            sent[k] += float(loss) * (stop - start) / log(2)
            best[k] = _least(known.task, block[:, :_LOOKED_AT], values[:_LOOKED_AT])
    return [_code(columns, k, cuts, bits) for k, bits in enumerate(sent)]


def _least(task: Task, scores: np.ndarray, values: np.ndarray) -> tuple[int, float]:
    """The penalty (of scores `[P, n, K]`) and scale that would have sent a block in the fewest bits."""
    loss = LogLoss(task, scores, values)
    costs = np.stack([loss(scale, MIX) for scale in _SCALES], 1)
    penalty, scale = np.unravel_index(int(costs.argmin()), costs.shape)
    return int(penalty), _SCALES[scale]


def _code(columns: Columns, k: int, cuts: Sequence[int], bits: float) -> Codelength | None:
    task = columns.known[k].task
    if task.kind == "regression":
        return None
    uniform = float(task.width) if task.kind == "multilabel" else log2(task.width)
    return Codelength((uniform * cuts[0] + bits) / cuts[-1], uniform, cuts[-1])
