"""How well a label goes with a unit, over pictures: measures of Neuron_Eval (Oikarinen, Yan and Weng 2025,
arXiv:2506.05774), and its two tests of them.

A measure takes values float32 `[N, U]`, in which pictures these units count as active, bool `[N, U]`, and
which pictures have the label of each, bool `[N, U]`; it gives float64 `[U]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch

Measure = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

PASSING = ("correlation", "cosine", "auprc", "f1", "iou")
"""Measures that fall, of every unit of that paper's tests, when labels are missing and when there are too
many; others may not."""

LEAST = 0.001
"""A fall counts from this share of a measure's range on."""


def pearson(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Correlation float64 `[U]`, column by column, of any numbers `[N, U]`; 0 where either is constant."""
    x, label = _centred(x), _centred(label)
    norms = x.norm(dim=0) * label.norm(dim=0)
    return torch.where(norms > 0, (x * label).sum(0) / norms.clamp(min=1e-300), 0)


def _correlation(x: torch.Tensor, on: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return pearson(x, label)


def _cosine(x: torch.Tensor, on: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    x, label = x.double(), label.double()
    return (x * label).sum(0) / (x.norm(dim=0) * label.norm(dim=0)).clamp(min=1e-300)


def _counted(
    ratio: Callable[..., torch.Tensor], x: torch.Tensor, on: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    """Of the pictures that are both, active, and labelled (float64 `[U]` each), and their number."""
    return ratio((on & label).sum(0).double(), on.sum(0).double(), label.sum(0).double(), len(x))


def _f1(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    return 2 * both / (active + labelled).clamp(min=1)


def _iou(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    return both / (active + labelled - both).clamp(min=1)


def _recall(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    """Of the active pictures, how many have the label."""
    return both / active.clamp(min=1)


def _precision(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    """Of the labelled pictures, how many are active."""
    return both / labelled.clamp(min=1)


def _auprc(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    """Average precision with which the label, of two values, tells active pictures."""
    found = both / active.clamp(min=1)
    return found * both / labelled.clamp(min=1) + (1 - found) * active / n


def _auc(both: torch.Tensor, active: torch.Tensor, labelled: torch.Tensor, n: int) -> torch.Tensor:
    """Area under the ROC curve with which the label tells active pictures; ties count half."""
    return (1 + both / active.clamp(min=1) - (labelled - both) / (n - active).clamp(min=1)) / 2


MEASURES: dict[str, Measure] = {
    "correlation": _correlation, "cosine": _cosine,
    "auprc": partial(_counted, _auprc), "f1": partial(_counted, _f1), "iou": partial(_counted, _iou),
    "recall": partial(_counted, _recall), "precision": partial(_counted, _precision),
    "auc": partial(_counted, _auc),
}  # fmt: skip

RANGE = {"correlation": 2.0, "cosine": 2.0}  # of the others 1


@dataclass(frozen=True)
class Sanity:
    """What becomes of measures when labels are spoilt: name -> float64 `[U]`.

    score: with the labels as they are. missing: mean change, as a share of the measure's range, where each
    label is taken away with probability 1/2. extra: where as many are added, in expectation, to pictures
    at random. A good label's score falls in both.
    """

    score: dict[str, torch.Tensor]
    missing: dict[str, torch.Tensor]
    extra: dict[str, torch.Tensor]

    def falls(self, measure: str) -> torch.Tensor:
        """bool `[2, U]`: whether the score falls with missing labels, and with extra ones."""
        return torch.stack([self.missing[measure] < -LEAST, self.extra[measure] < -LEAST])


def sanity(x: torch.Tensor, on: torch.Tensor, label: torch.Tensor, draws: int, seed: int = 0) -> Sanity:
    """The tests of missing and of extra labels, of all measures: x float32 `[N, U]`, on and label bool.

    Of every unit the same pictures are drawn, so that what comes of one does not depend on those beside it.
    """
    draw = torch.Generator().manual_seed(seed)
    own = {name: measure(x, on, label) for name, measure in MEASURES.items()}
    missing = {name: torch.zeros_like(score) for name, score in own.items()}
    extra = {name: torch.zeros_like(score) for name, score in own.items()}
    labelled = label.sum(0)
    chance = labelled / (len(label) - labelled).clamp(min=1)
    for _ in range(draws):
        fewer = label & (torch.rand(len(x), 1, generator=draw) < 0.5)
        more = label | (torch.rand(len(x), 1, generator=draw) < chance)
        for name, measure in MEASURES.items():
            scale = draws * RANGE.get(name, 1.0)
            missing[name] += (measure(x, on, fewer) - own[name]) / scale
            extra[name] += (measure(x, on, more) - own[name]) / scale
    return Sanity(own, missing, extra)


def active(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """bool `[N, U]`: pictures among the highest `share` `[U]` of each unit; all that tie with the last,
    unless that is the unit's lowest value: one that is mostly 0 is not active there."""
    order = x.sort(dim=0, descending=True).values
    last = torch.tensor([max(0, ceil(float(s) * len(x)) - 1) for s in share])
    return (x >= order.gather(0, last[None])) & (x > order[-1])


def _centred(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x - x.mean(0)
