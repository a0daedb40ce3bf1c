"""Which penalty, and which temperature: by training items that a fold's probe has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmxai.labels.labels import Task
from mmxai.methods.probe.calibration import LogLoss, temperature
from mmxai.methods.probe.design import Known
from mmxai.methods.probe.site_probes import Probes, scores_of

PROBABILISTIC = ("lda", "logistic")
"""Methods whose scores are log odds as they are."""


@dataclass(frozen=True)
class Choice:
    """The place of the penalty among the candidates, and what scores are multiplied by to be log odds."""

    penalty: int
    temperature: float


class HeldOut:
    """Scores of kept items by the probes of the folds they are not in: a fold's probes at a time.

    x: float32 `[n, D]`; fold: int64 `[n]`; places: int64 `[n]`, the items' in their cohort.
    """

    def __init__(self, x: torch.Tensor, fold: np.ndarray, places: np.ndarray, known: tuple[Known, ...]):
        self._x, self._fold, self._places, self._known = x, fold, places, known
        self._scores: list[np.ndarray] = []

    def add(self, fold: int, probes: Probes) -> None:
        own = np.flatnonzero(self._fold == fold)
        x = torch.from_numpy(self._x.numpy().take(own, 0))
        for k, probe in enumerate(probes):
            found = scores_of(probe, x).numpy()
            if len(self._scores) <= k:
                self._scores.append(np.zeros((found.shape[0], len(self._x), found.shape[2]), np.float32))
            self._scores[k][:, own] = found

    def choose(self, k: int, method: str) -> Choice:
        """For task or control `k`: the penalty of least loss, the loss being what the method fits (squares,
        or the log loss of those that give probabilities)."""
        known, scores = self._known[k], self._scores[k]
        task, values = known.task, known.values[self._places]
        seen = _seen(task, scores, values)
        if not seen.any():
            return Choice(len(scores) - 1, 1.0)  # nothing to choose by: the largest penalty, as of equals
        if not seen.all():
            scores, values = scores[:, seen], values[seen]
        log_loss = method in PROBABILISTIC and task.kind != "regression"
        losses = LogLoss(task, scores, values)() if log_loss else _squares(task, scores, values)
        best = len(losses) - 1 - int(np.argmin(losses[::-1]))  # of equals the larger penalty
        if log_loss or task.kind == "regression":
            return Choice(best, 1.0)
        return Choice(best, temperature(task, scores[best], values))


def _seen(task: Task, scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """bool `[n]`: not of a class (a label, or its lack) that the other folds had nothing of, as may be where
    labels are drawn at random. To such an item scores `[P, n, K]` give no chance whatever the penalty."""
    if task.kind == "regression":
        return np.ones(len(values), bool)
    if task.kind == "multilabel":
        return (np.where(values == 1, scores.min(0), -scores.max(0)) > -np.inf).all(1)
    return np.isfinite(scores[:, np.arange(len(values)), values]).all(0)


def _squares(task: Task, scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean squares that scores `[P, n, K]` are off, `[P]`."""
    if task.kind == "classes":
        target = np.where(values[:, None] == np.arange(task.width), 1.0, -1.0)
    elif task.kind == "multilabel":
        target = np.where(values == 1, 1.0, -1.0)
    else:
        target = values[:, None]
    return np.array([((s - target) ** 2).mean() for s in scores])
